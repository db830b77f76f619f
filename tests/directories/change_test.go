package directories

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// book is a backend that knows its users' numbers, and changes them. For any other number it
// creates a user.
type book struct {
	mu      sync.Mutex
	numbers map[string]string // the user's id by number
}

func (b *book) owner(number string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.numbers[number]
}

// has reports whether a user has a number.
func (b *book) has(id string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Contains(slices.Collect(maps.Values(b.numbers)), id)
}

// handle returns the answer to an event.
func (b *book) handle(e event) (status int, text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	id, has := e.UserID, ""
	for number, owner := range b.numbers {
		if owner == id {
			has = number
		}
	}
	switch {
	case e.Type == "user.erase":
		delete(b.numbers, has)
		return http.StatusNoContent, ""
	case e.Phone == "" && has == "", e.Type == "user.phone" && has == "":
		return http.StatusNotFound, ""
	case e.Type == "user.phone":
		if owner := b.numbers[e.Phone]; owner != "" && owner != id {
			return http.StatusConflict, ""
		}
		delete(b.numbers, has)
		b.numbers[e.Phone] = id
		return http.StatusOK, `{"phone":"` + e.Phone + `"}`
	case e.Phone != "":
		if b.numbers[e.Phone] == "" {
			b.numbers[e.Phone] = "user-" + e.Phone[1:] + fmt.Sprint("-", len(b.numbers))
		}
		id = b.numbers[e.Phone]
	}
	return http.StatusOK, `{"id":"` + id + `","userInfo":{"nickName":"安安"},"claims":{"level":3}}`
}

// newBook returns a new book, from which the backend answers.
func newBook(b *backend) *book {
	k := &book{numbers: make(map[string]string)}
	b.says(func(w http.ResponseWriter, r *http.Request) {
		var e event
		for _, one := range b.events() {
			if one.ID == r.Header.Get("webhook-id") {
				e = one
			}
		}
		status, text := k.handle(e)
		body(status, text)(w, r)
	})
	return k
}

// tapAs simulates a tap on the phone button by Alice, for a change of number.
func tapAs(t *testing.T, g *rig.Gateway, number string) string {
	return g.WeChat.NewNumber(t, rig.AppID, "alice", number)
}

// Alice changes her number, which only her team's backend knows. Everything that is shown
// about her, by the gateway and by the backend, has the new number.
func TestBackendChangesTheNumber(t *testing.T) {
	t.Parallel()
	g, b := newHooked(t)
	there := newBook(b)
	alice := loginAs(t, g, "alice", number).Pair(t)
	tap := tapAs(t, g, other)
	a := g.ChangePhone(alice.Token, tap)
	c := a.Changed(t)
	if c.UserInfo.ID != alice.UserInfo.ID || c.UserInfo.PhoneNumber != "+86"+other || !strings.Contains(a.Body, "安安") {
		t.Errorf("%s", a.Body)
	}
	if there.owner("+86"+other) != c.UserInfo.ID || there.owner("+86"+number) != "" {
		t.Errorf("the backend has %v", there.numbers)
	}
	for _, token := range []string{c.Token, g.Refresh(alice.RefreshToken).Pair(t).Token, g.Silent(g.WeChat.OpenAs(t, rig.AppID, "alice").Code).Pair(t).Token} {
		seen := g.Get("/orders", token).Seen(t)
		seen.WantHeader(t, "X-WX-USER-ID", alice.UserInfo.ID)
		seen.WantHeader(t, "X-WX-PHONE", "+86"+other)
		seen.WantHeader(t, "X-Level", "3")
	}
	asked := 0
	for _, e := range b.events() {
		if e.Type == "user.phone" {
			asked++
			if e.UserID != alice.UserInfo.ID || e.Phone != "+86"+other || e.Country != "86" || e.National != other {
				t.Errorf("%+v", e)
			}
		}
	}
	g.ChangePhone(alice.Token, tap).Changed(t) // the answer was lost
	if again := len(b.events()); asked != 1 || b.events()[again-1].Type == "user.phone" {
		t.Errorf("user.phone came %d times, and again", asked)
	}
	if bob := loginAs(t, g, "bob", number).Pair(t); bob.UserInfo.ID == alice.UserInfo.ID {
		t.Error("the old number is still hers")
	}
	g.ChangePhone(alice.Token, tapAs(t, g, number)).WantProblem(t, http.StatusConflict, "phone_taken", nil)
	if n := g.WeChat.PhoneOK(); n != 4 {
		t.Errorf("%d phone codes were exchanged", n)
	}
}

// A backend that cannot change numbers, or does not answer, changes nothing. The phone code is
// paid for once, and can be used as soon as the backend is back.
func TestBackendThatChangesNothing(t *testing.T) {
	t.Parallel()
	g, b := newHooked(t)
	alice := loginAs(t, g, "alice", number).Pair(t)
	tap := tapAs(t, g, other)
	for _, c := range []struct {
		answer http.HandlerFunc
		status int
		code   string
		renew  []string
	}{
		{body(500, ``), 503, "directory_unavailable", []string{}},
		{body(200, `<!DOCTYPE html>`), 403, "phone_change_closed", nil},
		{body(200, `{"id":"m`+other+`"}`), 403, "phone_change_closed", nil},
		{body(200, `{"phone":"+8613700137000"}`), 503, "misconfigured", []string{}},
		{body(400, ``), 403, "phone_change_closed", nil},
		{body(404, ``), 403, "phone_change_closed", nil}, // although it knows the user
		{body(409, ``), 409, "phone_taken", nil},
	} {
		b.says(func(w http.ResponseWriter, r *http.Request) {
			events := b.events()
			if e := events[len(events)-1]; e.Type != "user.phone" {
				usual(w, e)
				return
			}
			c.answer(w, r)
		})
		g.ChangePhone(alice.Token, tap).WantProblem(t, c.status, c.code, c.renew)
	}
	b.says(nil)
	g.Get("/orders", g.Refresh(alice.RefreshToken).Pair(t).Token).Seen(t).WantHeader(t, "X-WX-PHONE", "+86"+number)
	newBook(b).numbers["+86"+number] = alice.UserInfo.ID
	g.ChangePhone(alice.Token, tap).Changed(t)
	if n := g.WeChat.PhoneOK(); n != 2 {
		t.Errorf("%d phone codes were exchanged", n)
	}
}

// insist sends a request again for as long as the answer asks for that. On a busy machine, a
// change may take longer than other requests wait for it.
func insist(send func() rig.Answer) rig.Answer {
	for try := 1; ; try++ {
		if a := send(); a.Status != http.StatusServiceUnavailable || try == 5 {
			return a
		}
	}
}

// Alice changes her number on one replica. On the other, its next owner logs in with it at the
// same time, or she changes to a second number. Nobody is let in as her, and the backend and
// the gateway end up with the same number. In a third case Carol is erased meanwhile, and
// nothing is left of her.
func TestBackendChangesBesideOtherThings(t *testing.T) {
	t.Parallel()
	rig.OnDatabases(t, func(t *testing.T, db *rig.Database) {
		b := newBackend(t)
		there := newBook(b)
		replicas := rig.NewReplicas(t, db, 2, "users webhook "+b.url+" {\nsecret "+secret+"\n}", "service_key "+backendKey)
		for round := range rig.Rounds(4, 50) {
			who := func(name string) string { return fmt.Sprint(name, round) }
			old, next, third := fmt.Sprintf("130%08d", round), fmt.Sprintf("131%08d", round), fmt.Sprintf("132%08d", round)
			alice := loginAs(t, replicas[0], who("alice"), old).Pair(t)
			change := func(i int, number string) <-chan rig.Answer {
				code := replicas[i].WeChat.NewNumber(t, rig.AppID, who("alice"), number)
				return rig.InBackground(func() rig.Answer {
					return insist(func() rig.Answer { return replicas[i].ChangePhone(alice.Token, code) })
				})
			}
			first, second := change(0, next), change(1, third)
			(<-first).Changed(t)
			(<-second).Changed(t)
			seen := replicas[1].Get("/", replicas[1].Refresh(alice.RefreshToken).Pair(t).Token).Seen(t).Header.Get("X-WX-PHONE")
			if there.owner(seen) != alice.UserInfo.ID {
				t.Fatalf("round %d: the gateway has %s, the backend %v", round, seen, there.numbers)
			}
			hers := strings.TrimPrefix(seen, "+86")
			codes := replicas[1].WeChat.TapAs(t, rig.AppID, who("bob"), wechattest.Phone{Number: hers})
			moved := change(0, old)
			bob := insist(func() rig.Answer { return replicas[1].Login(codes.Code, codes.PhoneCode) }).Pair(t)
			a := <-moved
			if same := bob.UserInfo.ID == alice.UserInfo.ID; same == (a.Status == http.StatusOK) {
				t.Errorf("round %d: the change: %d %s; Bob is Alice: %v", round, a.Status, a.Body, same)
			}

			carol := loginAs(t, replicas[0], who("carol"), fmt.Sprintf("133%08d", round)).Pair(t)
			code := replicas[1].WeChat.NewNumber(t, rig.AppID, who("carol"), fmt.Sprintf("134%08d", round))
			erased := rig.InBackground(func() rig.Answer {
				return replicas[0].Do(http.MethodDelete, "/auth/wx/service/users/"+carol.UserInfo.ID, nil, rig.Bearer(backendKey)...)
			})
			a = insist(func() rig.Answer { return replicas[1].ChangePhone(carol.Token, code) })
			(<-erased).Want(t, http.StatusNoContent)
			if a.Status != http.StatusOK {
				a.WantProblem(t, http.StatusUnauthorized, "token_revoked", nil)
			}
			if n := db.Count(t, `SELECT COUNT(*) FROM wx_auth_bindings WHERE user_id = '`+carol.UserInfo.ID+`'`); n != 0 || there.has(carol.UserInfo.ID) {
				t.Errorf("round %d: after a change (%d) and an erasure: %d bindings, and the backend has %v", round, a.Status, n, there.has(carol.UserInfo.ID))
			}
		}
	})
}
