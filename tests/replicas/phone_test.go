package replicas

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// mover is a set of replicas on which numbers change. Each round has its own people and
// numbers.
type mover struct {
	*stage
	t *testing.T
	n int
}

func (m *mover) person(name string) string { return fmt.Sprint(name, m.n) }

// number returns one of the numbers of a round.
func (m *mover) number(i int) string { return fmt.Sprintf("13%d%08d", i, m.n) }

// login logs a person in by one of the numbers.
func (m *mover) login(name string, i int) rig.Pair {
	m.t.Helper()
	return m.phone(m.t, m.person(name), one, m.number(i)).Pair(m.t)
}

// change returns a request by a person to change to one of the numbers.
func (m *mover) change(replica int, name string, p rig.Pair, i int) func() rig.Answer {
	m.t.Helper()
	code := m.wechat().NewNumber(m.t, one, m.person(name), m.number(i))
	return func() rig.Answer { return m.replicas[replica].ChangePhone(p.Token, code) }
}

// owner returns the id of the user that has one of the numbers, or "" if nobody has it.
func (m *mover) owner(i int) string {
	m.t.Helper()
	a := m.next().Do(http.MethodPost, "/auth/wx/service/users/find", map[string]string{"phone": "+86" + m.number(i)}, rig.Bearer(serviceKey)...)
	if a.Status == http.StatusNotFound {
		return ""
	}
	a.Want(m.t, http.StatusOK)
	var u rig.UserInfo
	a.Decode(m.t, "application/json", &u)
	return u.ID
}

// owners fails the test unless the numbers of the round belong to these users.
func (m *mover) owners(want ...string) {
	m.t.Helper()
	for i, id := range want {
		if got := m.owner(i); got != id {
			m.t.Errorf("round %d: number %d belongs to %q, want %q", m.n, i, got, id)
		}
	}
}

// atOnce sends requests at the same moment.
func atOnce(requests ...func() rig.Answer) []rig.Answer {
	answers := make([]rig.Answer, len(requests))
	var all sync.WaitGroup
	for i, send := range requests {
		all.Go(func() { answers[i] = send() })
	}
	all.Wait()
	return answers
}

var moves = []struct {
	name string
	play func(m *mover)
}{
	{"two numbers", func(m *mover) {
		alice := m.login("alice", 0)
		for _, a := range atOnce(m.change(0, "alice", alice, 1), m.change(1, "alice", alice, 2)) {
			a.Changed(m.t)
		}
		id := alice.UserInfo.ID
		switch me := m.next().Me(alice.Token).UserInfo(m.t); me.PurePhoneNumber {
		case m.number(1):
			m.owners("", id, "")
		case m.number(2):
			m.owners("", "", id)
		default:
			m.t.Errorf("%+v", me)
		}
	}},
	{"one number twice", func(m *mover) {
		alice := m.login("alice", 0)
		code := m.wechat().NewNumber(m.t, one, m.person("alice"), m.number(1))
		var requests []func() rig.Answer
		for i := range 4 {
			requests = append(requests, func() rig.Answer { return m.replicas[i%2].ChangePhone(alice.Token, code) })
		}
		for _, a := range atOnce(requests...) {
			a.Changed(m.t)
		}
		m.owners("", alice.UserInfo.ID)
	}},
	{"the number's next owner logs in", func(m *mover) {
		alice := m.login("alice", 0)
		codes := m.wechat().TapAs(m.t, one, m.person("bob"), wechattest.Phone{Number: m.number(0)})
		answers := atOnce(m.change(0, "alice", alice, 1), func() rig.Answer {
			return m.replicas[1].Do(http.MethodPost, "/auth/wx", map[string]string{"code": codes.Code, "phoneCode": codes.PhoneCode, "appid": one})
		})
		bob := answers[1].Pair(m.t)
		if answers[0].Status == http.StatusOK {
			m.owners(bob.UserInfo.ID, alice.UserInfo.ID)
			m.in(m.t, alice)
		} else {
			answers[0].WantProblem(m.t, http.StatusUnauthorized, "token_revoked", nil)
			m.owners(alice.UserInfo.ID, "")
			m.out(m.t, alice)
		}
		if same := bob.UserInfo.ID == alice.UserInfo.ID; same == (answers[0].Status == http.StatusOK) {
			m.t.Errorf("the change: %d; Bob is Alice: %v", answers[0].Status, same)
		}
		m.in(m.t, bob)
	}},
	{"the user is erased", func(m *mover) {
		alice := m.login("alice", 0)
		answers := atOnce(m.change(0, "alice", alice, 1), func() rig.Answer {
			return m.replicas[1].Do(http.MethodDelete, "/auth/wx/service/users/"+alice.UserInfo.ID, nil, rig.Bearer(serviceKey)...)
		})
		answers[1].Want(m.t, http.StatusNoContent)
		if answers[0].Status != http.StatusOK {
			answers[0].WantProblem(m.t, http.StatusUnauthorized, "token_revoked", nil)
		}
		m.owners("", "")
		m.out(m.t, alice)
	}},
	{"the user is disabled", func(m *mover) {
		alice := m.login("alice", 0)
		id := alice.UserInfo.ID
		answers := atOnce(m.change(0, "alice", alice, 1), func() rig.Answer {
			return m.replicas[1].Do(http.MethodPatch, "/auth/wx/service/users/"+id, map[string]bool{"disabled": true}, rig.Bearer(serviceKey)...)
		})
		answers[1].Want(m.t, http.StatusNoContent)
		switch answers[0].Status {
		case http.StatusOK:
			m.owners("", id)
		case http.StatusForbidden:
			answers[0].WantProblem(m.t, http.StatusForbidden, "user_disabled", nil)
			m.owners(id, "")
		default:
			answers[0].WantProblem(m.t, http.StatusUnauthorized, "token_revoked", nil)
			m.owners(id, "")
		}
	}},
	{"two users want one number", func(m *mover) {
		alice, bob := m.login("alice", 0), m.login("bob", 1)
		answers := atOnce(m.change(0, "alice", alice, 2), m.change(1, "bob", bob, 2))
		first := 0
		if answers[0].Status != http.StatusOK {
			first = 1
		}
		answers[first].Changed(m.t)
		answers[1-first].WantProblem(m.t, http.StatusConflict, "phone_taken", nil)
		if first == 0 {
			m.owners("", bob.UserInfo.ID, alice.UserInfo.ID)
		} else {
			m.owners(alice.UserInfo.ID, "", bob.UserInfo.ID)
		}
	}},
}

// A user changes the number on one replica. At the same time something else happens to the
// user on the other replica. A number never has two owners, an erased user has none, and no
// paid code is exchanged twice.
func TestNumberChangesBesideOtherThings(t *testing.T) {
	t.Parallel()
	rig.OnDatabases(t, func(t *testing.T, db *rig.Database) {
		s := newStage(t, db, "replace")
		n := 0
		for _, move := range moves {
			t.Run(move.name, func(t *testing.T) {
				for range rig.Rounds(4, 50) {
					n++
					move.play(&mover{stage: s, t: t, n: n})
				}
			})
		}
		if users, entries := db.Count(t, `SELECT COUNT(*) FROM wx_auth_users`), db.Count(t, `SELECT COUNT(*) FROM wx_auth_user_phones`); users != entries {
			t.Errorf("%d users have %d numbers", users, entries)
		}
		for _, p := range s.wechat().PhoneCodes() {
			if p.Shown > 1 {
				t.Errorf("a phone code was shown %d times", p.Shown)
			}
		}
		for _, g := range s.replicas {
			for _, line := range append(g.Caddy.Log.Lines(`"logger":"http.handlers.wx_auth"`), g.Caddy.Log.Lines(`"logger":"events"`)...) {
				for i := range 3 {
					if strings.Contains(line, fmt.Sprintf("13%d00000", i)) {
						t.Errorf("a number is in the log: %s", line)
					}
				}
			}
		}
	})
}
