package replicas

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// These are the mini programs in the tests. One and two belong to one company's Open Platform
// account, so a user has the same unionid in both. Three and four belong to no such account.
const one, two, three, four = rig.AppID, "wx2222222222222222", "wx3333333333333333", "wx4444444444444444"

const storySecret = "5ec2e70000000000000000000000cafe"

// stage is a pair of replicas. Each step of a test goes to the other replica than the step
// before.
type stage struct {
	replicas []*rig.Gateway
	turn     int
}

func newStage(t *testing.T, db *rig.Database, rule string) *stage {
	t.Helper()
	replicas := rig.PrepareReplicas(t, db, 2)
	s := &stage{replicas: replicas}
	var apps strings.Builder
	for _, app := range []wechattest.App{
		{ID: one, Secret: storySecret, OpenPlatform: "company"}, {ID: two, Secret: storySecret, OpenPlatform: "company"},
		{ID: three, Secret: storySecret}, {ID: four, Secret: storySecret},
	} {
		if err := s.wechat().AddApp(app); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&apps, "app %s %s\n", app.ID, app.Secret)
	}
	rig.StartReplicas(t, replicas, rig.Site("wx_auth {\n"+apps.String()+"on_new_openid "+rule+"\nservice_key "+serviceKey+
		"\nstore {env.WX_AUTH_STORE}\nencryption_key {env.WX_AUTH_KEY}\nwechat {\napi {$WX_API}\ntimeout 15s\n}\n}\nreverse_proxy {$UPSTREAM}"))
	return s
}

func (s *stage) wechat() *rig.WeChat { return s.replicas[0].WeChat }

func (s *stage) next() *rig.Gateway {
	s.turn++
	return s.replicas[s.turn%len(s.replicas)]
}

func (s *stage) phone(t testing.TB, who, appid, number string) rig.Answer {
	t.Helper()
	codes := s.wechat().TapAs(t, appid, who, wechattest.Phone{Number: number})
	return s.next().Do(http.MethodPost, "/auth/wx", map[string]string{"code": codes.Code, "phoneCode": codes.PhoneCode, "appid": appid})
}

func (s *stage) silent(t testing.TB, who, appid string) rig.Answer {
	t.Helper()
	return s.next().Do(http.MethodPost, "/auth/wx", map[string]string{"code": s.wechat().OpenAs(t, appid, who).Code, "appid": appid})
}

// out fails the test unless the session has ended on every replica within the feed's
// time.
func (s *stage) out(t testing.TB, p rig.Pair) {
	t.Helper()
	for _, g := range s.replicas {
		rig.Await(t, 10*time.Second, "the session is over", func() bool { return g.Get("/", p.Token).Status == http.StatusUnauthorized })
		g.WantEnded(t, p)
	}
}

func (s *stage) in(t testing.TB, p rig.Pair) {
	t.Helper()
	for _, g := range s.replicas {
		g.WantAlive(t, p)
		g.Me(p.Token).Want(t, http.StatusOK)
	}
}

func needsPhone(t testing.TB, a rig.Answer) {
	t.Helper()
	a.WantProblem(t, http.StatusForbidden, "phone_required", nil)
}

func denied(t testing.TB, a rig.Answer) {
	t.Helper()
	a.WantProblem(t, http.StatusForbidden, "new_openid_denied", nil)
}

// scene is a test with its own names and numbers: Alice has the number first, and later the
// carrier gives it to Bob.
type scene struct {
	*stage
	t               *testing.T
	alice, bob      string
	number, another string
}

func (s scene) user(p, q rig.Pair) {
	s.t.Helper()
	if p.UserInfo.ID != q.UserInfo.ID {
		s.t.Errorf("two users: %+v and %+v", *p.UserInfo, *q.UserInfo)
	}
}

var recycled = map[string]map[string]func(t *testing.T, s scene){
	"replace": {
		"the new owner is in, the former one is out": func(t *testing.T, s scene) {
			alice := s.phone(t, s.alice, one, s.number).Pair(t)
			bob := s.phone(t, s.bob, one, s.number).Pair(t)
			s.user(alice, bob)
			s.out(t, alice)
			s.in(t, bob)
			needsPhone(t, s.silent(t, s.alice, one))
			s.user(bob, s.silent(t, s.bob, one).Pair(t))
		},
		"(a) her session from before her openid moved": func(t *testing.T, s scene) {
			alice := s.phone(t, s.alice, one, s.number).Pair(t)
			a := s.phone(t, s.alice, one, s.another)
			moved := a.Pair(t)
			if !strings.Contains(a.Body, `"moved":true`) || moved.UserInfo.ID == alice.UserInfo.ID {
				t.Errorf("%s", a.Body)
			}
			s.out(t, alice)
			bob := s.phone(t, s.bob, one, s.number).Pair(t)
			s.user(alice, bob)
			s.in(t, bob)
			s.in(t, moved)
		},
		"(c) her binding in another mini program": func(t *testing.T, s scene) {
			for _, apps := range [][2]string{{one, two}, {three, four}, {one, three}} {
				alice := s.phone(t, s.alice, apps[1], s.number).Pair(t)
				bob := s.phone(t, s.bob, apps[0], s.number).Pair(t)
				s.user(alice, bob)
				s.out(t, alice)
				needsPhone(t, s.silent(t, s.alice, apps[1]))
				needsPhone(t, s.silent(t, s.alice, apps[0]))
				s.in(t, bob)
				// She proves that she has the number: she is logged in again, and
				// nobody's session ends.
				back := s.phone(t, s.alice, apps[1], s.number).Pair(t)
				s.in(t, bob)
				s.in(t, back)
				s.user(bob, s.silent(t, s.alice, apps[1]).Pair(t))
				s.alice, s.bob, s.number = s.alice+"'", s.bob+"'", nextNumber(s.number)
			}
		},
		"her binding in another mini program, after her openid moved": func(t *testing.T, s scene) {
			first := s.phone(t, s.alice, two, s.number).Pair(t)
			s.phone(t, s.alice, one, s.number).Pair(t)
			moved := s.phone(t, s.alice, one, s.another).Pair(t)
			s.in(t, first) // as far as anybody knows, she still has the number
			bob := s.phone(t, s.bob, one, s.number).Pair(t)
			s.user(first, bob)
			s.out(t, first)
			needsPhone(t, s.silent(t, s.alice, two))
			s.in(t, moved)
			s.user(moved, s.silent(t, s.alice, one).Pair(t))
		},
		"one person in two mini programs of a company": func(t *testing.T, s scene) {
			first := s.phone(t, s.alice, one, s.number).Pair(t)
			second := s.phone(t, s.alice, two, s.number).Pair(t)
			third := s.silent(t, s.alice, one).Pair(t)
			fourth := s.phone(t, s.alice, one, s.number).Pair(t)
			for _, p := range []rig.Pair{first, second, third, fourth} {
				s.in(t, p)
			}
		},
		"a silent login by the unionid only": func(t *testing.T, s scene) {
			first := s.phone(t, s.alice, one, s.number).Pair(t)
			byUnion := s.silent(t, s.alice, two).Pair(t)
			s.user(first, byUnion)
			s.in(t, first)
			bob := s.phone(t, s.bob, three, s.number).Pair(t)
			s.out(t, first)
			s.out(t, byUnion)
			needsPhone(t, s.silent(t, s.alice, one))
			needsPhone(t, s.silent(t, s.alice, two))
			s.in(t, bob)
		},
		"an openid without a binding of a suspended account": func(t *testing.T, s scene) {
			s.phone(t, s.alice, one, s.number).Pair(t)
			s.phone(t, s.bob, three, s.number).Pair(t)
			needsPhone(t, s.silent(t, s.alice, two)) // she never logged in there
		},
	},
	"deny": {
		"another openid in the app": func(t *testing.T, s scene) {
			alice := s.phone(t, s.alice, one, s.number).Pair(t)
			denied(t, s.phone(t, s.bob, one, s.number))
			s.in(t, alice)
			s.user(alice, s.phone(t, s.alice, one, s.number).Pair(t))
		},
		"(b) an openid that has moved away": func(t *testing.T, s scene) {
			for _, appid := range []string{one, three} {
				alice := s.phone(t, s.alice, appid, s.number).Pair(t)
				moved := s.phone(t, s.alice, appid, s.another).Pair(t)
				s.out(t, alice)
				denied(t, s.phone(t, s.bob, appid, s.number))
				s.in(t, moved)
				s.user(alice, s.phone(t, s.alice, appid, s.number).Pair(t)) // she is still the same user
				s.alice, s.bob, s.number, s.another = s.alice+"'", s.bob+"'", nextNumber(s.number), nextNumber(s.another)
			}
		},
		"an account of another mini program": func(t *testing.T, s scene) {
			alice := s.phone(t, s.alice, one, s.number).Pair(t)
			denied(t, s.phone(t, s.bob, two, s.number))
			denied(t, s.phone(t, s.bob, three, s.number)) // his app belongs to no Open Platform account
			s.in(t, alice)
			s.user(alice, s.phone(t, s.alice, two, s.number).Pair(t))
		},
		"a login that it lets in is treated as under replace": func(t *testing.T, s scene) {
			alice := s.phone(t, s.alice, three, s.number).Pair(t)
			bob := s.phone(t, s.bob, four, s.number).Pair(t) // no unionid is known
			s.user(alice, bob)
			s.out(t, alice)
			needsPhone(t, s.silent(t, s.alice, three))
		},
	},
	"keep": {
		"no session ends": func(t *testing.T, s scene) {
			var all []rig.Pair
			for _, login := range [][2]string{{s.alice, one}, {s.alice, three}, {s.bob, one}, {s.bob, four}} {
				all = append(all, s.phone(t, login[0], login[1], s.number).Pair(t))
			}
			for _, p := range all {
				s.in(t, p)
				s.user(p, all[0])
			}
			s.user(all[0], s.silent(t, s.alice, one).Pair(t))
			s.user(all[0], s.silent(t, s.bob, four).Pair(t))
		},
		"(a) but an openid that moves away is out": func(t *testing.T, s scene) {
			alice := s.phone(t, s.alice, one, s.number).Pair(t)
			elsewhere := s.phone(t, s.alice, two, s.number).Pair(t)
			moved := s.phone(t, s.alice, one, s.another).Pair(t)
			s.out(t, alice)
			s.in(t, elsewhere)
			s.in(t, moved)
		},
	},
}

func nextNumber(number string) string {
	return number[:8] + fmt.Sprintf("%03d", (int(number[10])*7+13)%1000)
}

// A recycled number has a former and a new owner. The one that is out must have neither a
// session nor a silent login left, in any mini program and on any replica.
func TestRecycledNumbers(t *testing.T) {
	t.Parallel()
	rig.OnDatabases(t, func(t *testing.T, db *rig.Database) {
		for i, rule := range slices.Sorted(maps.Keys(recycled)) {
			t.Run(rule, func(t *testing.T) {
				s := newStage(t, rig.NewDatabase(t, db.Kind), rule)
				n := 0
				for _, name := range slices.Sorted(maps.Keys(recycled[rule])) {
					n++
					t.Run(name, func(t *testing.T) {
						recycled[rule][name](t, scene{
							stage: s, t: t, alice: fmt.Sprint("alice", n), bob: fmt.Sprint("bob", n),
							number: fmt.Sprintf("138%d%02d00%03d", i, n, 100), another: fmt.Sprintf("139%d%02d00%03d", i, n, 100),
						})
					})
				}
			})
		}
	})
}

// Two people log in with one number at the same moment, a hundred times. One of them
// must get the whole account and the other nothing of it.
func TestTwoPeopleWithOneNumberAtOnce(t *testing.T) {
	t.Parallel()
	rig.OnDatabases(t, func(t *testing.T, db *rig.Database) {
		s := newStage(t, db, "replace")
		for round := range rig.Rounds(8, 50) {
			number := fmt.Sprintf("137%08d", round)
			people := []string{fmt.Sprint("alice", round), fmt.Sprint("bob", round)}
			apps := [][]string{{three, three}, {three, four}, {one, one}, {one, three}}[round%4]
			var answers [2]rig.Answer
			var both sync.WaitGroup
			for i, who := range people {
				codes := s.wechat().TapAs(t, apps[i], who, wechattest.Phone{Number: number})
				both.Go(func() {
					answers[i] = s.replicas[i].Do(http.MethodPost, "/auth/wx", map[string]string{"code": codes.Code, "phoneCode": codes.PhoneCode, "appid": apps[i]})
				})
			}
			both.Wait()
			alive := 0
			for i, a := range answers {
				p := a.Pair(t)
				ended := s.replicas[0].Refresh(p.RefreshToken).Status != http.StatusOK
				silent := s.silent(t, people[i], apps[i]).Status == http.StatusOK
				if ended == silent {
					t.Errorf("round %d: %s: the session has ended: %v; logs in silently: %v", round, people[i], ended, silent)
				}
				if silent {
					alive++
				}
			}
			if alive != 1 {
				t.Errorf("round %d: %d of two have the account", round, alive)
			}
		}
	})
}

// The former owner logs in silently on one replica while the new owner logs in by phone
// on the other. In the end the former owner is out.
func TestSilentLoginBesideTheNewOwners(t *testing.T) {
	t.Parallel()
	rig.OnDatabases(t, func(t *testing.T, db *rig.Database) {
		s := newStage(t, db, "replace")
		for round := range rig.Rounds(8, 50) {
			number, alice, bob := fmt.Sprintf("136%08d", round), fmt.Sprint("alice", round), fmt.Sprint("bob", round)
			s.phone(t, alice, one, number).Pair(t)
			at := []string{one, two}[round%2] // by her openid, or by her unionid
			code := s.wechat().OpenAs(t, at, alice).Code
			hers := rig.InBackground(func() rig.Answer {
				return s.replicas[0].Do(http.MethodPost, "/auth/wx", map[string]string{"code": code, "appid": at})
			})
			codes := s.wechat().TapAs(t, one, bob, wechattest.Phone{Number: number})
			his := s.replicas[1].Do(http.MethodPost, "/auth/wx", map[string]string{"code": codes.Code, "phoneCode": codes.PhoneCode, "appid": one}).Pair(t)
			if a := <-hers; a.Status == http.StatusOK {
				s.replicas[1].Refresh(a.Pair(t).RefreshToken).WantProblem(t, http.StatusUnauthorized, "session_ended", nil)
			} else {
				needsPhone(t, a)
			}
			needsPhone(t, s.silent(t, alice, at))
			s.replicas[0].Refresh(his.RefreshToken).Pair(t)
		}
	})
}

// twoSites returns a Caddyfile with two sites that share a store but have different issuers.
// Requests with X-Site go to the second one.
func twoSites() string {
	site := func(issuer string) string {
		return "wx_auth {env.WX_APPID} {env.WX_SECRET} {\nstore {env.WX_AUTH_STORE}\nencryption_key {env.WX_AUTH_KEY}\ntoken {\nissuer " + issuer +
			"\n}\nwechat {\napi {$WX_API}\ntimeout 15s\n}\n}\nreverse_proxy {$UPSTREAM}"
	}
	return rig.Site("@other header X-Site other\nhandle @other {\n" + site("other") + "\n}\nhandle {\n" + site("first") + "\n}")
}

const atOther = "X-Site: other"

// Alice is logged in at two sites with one store. Bob, who has her number now, logs in at one
// of them. Her session at the other must end too.
func TestRecycledNumberAtTwoSites(t *testing.T) {
	t.Parallel()
	rig.OnDatabases(t, func(t *testing.T, db *rig.Database) {
		g := rig.NewReplicasWith(t, db, 1, twoSites())[0]
		login := func(who string, headers ...string) rig.Pair {
			t.Helper()
			codes := g.WeChat.TapAs(t, rig.AppID, who, wechattest.Phone{Number: number})
			return g.Do(http.MethodPost, "/auth/wx", map[string]string{"code": codes.Code, "phoneCode": codes.PhoneCode}, headers...).Pair(t)
		}
		first, second := login("alice"), login("alice", atOther)
		g.Get("/", first.Token).Want(t, http.StatusOK)
		bob := login("bob", atOther)
		g.Get("/", first.Token).WantProblem(t, http.StatusUnauthorized, "token_revoked", nil)
		g.Get("/", second.Token, atOther).WantProblem(t, http.StatusUnauthorized, "token_revoked", nil)
		g.Get("/", bob.Token, atOther).Want(t, http.StatusOK)
		for _, site := range [][]string{nil, {atOther}} {
			a := g.Do(http.MethodPost, "/auth/wx", map[string]string{"code": g.WeChat.OpenAs(t, rig.AppID, "alice").Code}, site...)
			needsPhone(t, a)
		}
	})
}

// A login code is sent alone and with two phone codes, to two replicas and to two sites
// of one store, all at the same moment. It must open only one session.
func TestOneLoginCodeOneSession(t *testing.T) {
	t.Parallel()
	rig.OnDatabases(t, func(t *testing.T, db *rig.Database) {
		replicas := rig.NewReplicasWith(t, db, 2, twoSites())
		w := replicas[0].WeChat
		const number = "13500000000"
		replicas[0].MustLogin(t, number)
		for round := range 30 {
			code := w.Open(t, number).Code
			phoneCodes := []string{"", w.Tap(t, number).PhoneCode, w.Tap(t, number).PhoneCode}
			answers := make([]rig.Answer, 4*len(phoneCodes))
			var all sync.WaitGroup
			for i := range answers {
				body := map[string]string{"code": code}
				if phoneCode := phoneCodes[i/4]; phoneCode != "" {
					body["phoneCode"] = phoneCode
				}
				var headers []string
				if i%4 > 1 {
					headers = append(headers, atOther)
				}
				all.Go(func() { answers[i] = replicas[i%2].Do(http.MethodPost, "/auth/wx", body, headers...) })
			}
			all.Wait()
			sessions := make(map[string]bool)
			for _, a := range answers {
				if a.Status == http.StatusOK {
					sessions[rig.SessionOf(t, a.Pair(t).Token)] = true // the two replicas give the same answer twice
					continue
				}
				a.WantProblem(t, http.StatusBadRequest, "login_code_invalid", []string{"code"})
			}
			if len(sessions) != 1 {
				t.Fatalf("round %d: one login code opened %d sessions", round, len(sessions))
			}
			for _, phoneCode := range phoneCodes[1:] {
				replicas[round%2].Login(w.Open(t, number).Code, phoneCode).Pair(t)
			}
		}
		for _, p := range w.PhoneCodes() {
			if p.Shown > 1 {
				t.Errorf("a phone code was shown %d times", p.Shown)
			}
		}
	})
}
