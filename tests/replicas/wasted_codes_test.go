package replicas

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

var bothCodes = []string{"code", "phoneCode"}

// holdLate makes WeChat accept the next phone code and hold its answer back.
func holdLate(t testing.TB, w *rig.WeChat) (release func()) {
	t.Helper()
	hold := make(chan struct{})
	if err := w.Inject(wechattest.Fault{Call: wechattest.PhoneNumber, Kind: wechattest.Delay, Late: true, Hold: hold}); err != nil {
		t.Fatal(err)
	}
	release = sync.OnceFunc(func() { close(hold) })
	t.Cleanup(release)
	return release
}

// taken reports whether WeChat has accepted that phone code.
func taken(w *rig.WeChat, code string) bool {
	for _, p := range w.PhoneCodes() {
		if p.Code == code {
			return !p.Exchanged.IsZero()
		}
	}
	return false
}

// Clients send the same codes to two replicas, before, during and after the exchange.
// WeChat gets each code once, and every login succeeds.
func TestReplicasTogetherWasteNoCode(t *testing.T) {
	t.Parallel()
	rig.OnDatabases(t, func(t *testing.T, db *rig.Database) {
		replicas := rig.NewReplicas(t, db, 2)
		a, b := replicas[0], replicas[1]
		w := a.WeChat
		// underWay sends codes to a, whose answer from WeChat waits for release.
		underWay := func(t *testing.T, codes wechattest.Codes) (answer <-chan rig.Answer, release func()) {
			t.Helper()
			release = holdLate(t, w)
			answer = rig.InBackground(func() rig.Answer { return a.Login(codes.Code, codes.PhoneCode) })
			rig.Await(t, 10*time.Second, "WeChat has taken the phone code", func() bool { return taken(w, codes.PhoneCode) })
			return answer, release
		}
		for name, do := range map[string]func(t *testing.T, number string){
			"a hundred logins with one pair are one": func(t *testing.T, number string) {
				codes := w.Tap(t, number)
				release := w.Hold(t, wechattest.PhoneNumber)
				answers := make([]rig.Answer, 100)
				var all sync.WaitGroup
				for i := range answers {
					all.Go(func() { answers[i] = replicas[i%2].Login(codes.Code, codes.PhoneCode) })
				}
				rig.Await(t, 10*time.Second, "the phone code is on its way", func() bool { return w.Count(wechattest.PhoneNumber).Total > 0 })
				time.Sleep(300 * time.Millisecond) // so that most of them arrive
				release()
				all.Wait()
				first := answers[0].Pair(t)
				if !first.UserInfo.IsNew {
					t.Errorf("the user is not new: %s", answers[0].Body)
				}
				for _, other := range answers {
					if p := other.Pair(t); p.RefreshToken != first.RefreshToken || *p.UserInfo != *first.UserInfo {
						t.Fatalf("two answers to one login:\n%s\n%s", answers[0].Body, other.Body)
					}
				}
				rig.WantCalls(t, w, 1, 1)
			},
			"the answer is lost, a new login code goes to the other": func(t *testing.T, number string) {
				codes := w.Tap(t, number)
				first := a.Login(codes.Code, codes.PhoneCode).Pair(t)
				second := b.Login(w.Open(t, number).Code, codes.PhoneCode).Pair(t)
				if second.UserInfo.ID != first.UserInfo.ID {
					t.Errorf("user %+v, before %+v", second.UserInfo, first.UserInfo)
				}
				rig.WantCalls(t, w, 2, 1)
			},
			"a new login code comes to the other while the phone code is on its way": func(t *testing.T, number string) {
				codes := w.Tap(t, number)
				first, release := underWay(t, codes)
				second := rig.InBackground(func() rig.Answer { return b.Login(w.Open(t, number).Code, codes.PhoneCode) })
				rig.Await(t, 10*time.Second, "the other has the openid", func() bool { return w.Count(wechattest.Code2Session).Total == 2 })
				time.Sleep(300 * time.Millisecond) // until it is as far as it can get
				release()
				one, two := (<-first).Pair(t), (<-second).Pair(t)
				if one.UserInfo.ID != two.UserInfo.ID {
					t.Errorf("users %+v and %+v", one.UserInfo, two.UserInfo)
				}
				rig.WantCalls(t, w, 2, 1)
			},
			"somebody else's login code before it was exchanged": func(t *testing.T, number string) {
				codes := w.Tap(t, number)
				b.Login(w.Open(t, "13100000000").Code, codes.PhoneCode).WantProblem(t, 400, "phone_code_invalid", bothCodes)
				if taken(w, codes.PhoneCode) {
					t.Error("the owner's phone code was spent for somebody else")
				}
				a.Login(codes.Code, codes.PhoneCode).Pair(t)
			},
			"somebody else's login code while it is on its way": func(t *testing.T, number string) {
				codes := w.Tap(t, number)
				first, release := underWay(t, codes)
				thief := rig.InBackground(func() rig.Answer { return b.Login(w.Open(t, "13100000000").Code, codes.PhoneCode) })
				time.AfterFunc(500*time.Millisecond, release)
				(<-thief).WantProblem(t, 400, "phone_code_invalid", bothCodes)
				(<-first).Pair(t)
				rig.WantCalls(t, w, 2, 1)
			},
			"somebody else's login code after it was exchanged": func(t *testing.T, number string) {
				codes := w.Tap(t, number)
				a.Login(codes.Code, codes.PhoneCode).Pair(t)
				b.Login(w.Open(t, "13100000000").Code, codes.PhoneCode).WantProblem(t, 400, "phone_code_invalid", bothCodes)
				rig.WantCalls(t, w, 2, 1)
			},
			"one that is slow is waited for, and then the client is told to try again": func(t *testing.T, number string) {
				codes := w.Tap(t, number)
				first, release := underWay(t, codes)
				again := b.Login(codes.Code, codes.PhoneCode)
				again.WantProblem(t, 503, "wechat_unavailable", []string{})
				if again.Header.Get("Retry-After") == "" {
					t.Error("no Retry-After")
				}
				release()
				one := (<-first).Pair(t)
				if two := b.Login(codes.Code, codes.PhoneCode).Pair(t); two.RefreshToken != one.RefreshToken {
					t.Error("the other opened another session")
				}
				rig.WantCalls(t, w, 1, 1)
			},
		} {
			number := fmt.Sprintf("138%08d", len(w.PhoneCodes()))
			t.Run(name, func(t *testing.T) {
				w.ResetCounts()
				do(t, number)
			})
		}

		// When a replica is killed, others need not wait for its work beyond the end of
		// its lease.
		t.Run("one that is killed", func(t *testing.T) {
			w.ResetCounts()
			codes := w.Tap(t, number)
			w.Hold(t, wechattest.PhoneNumber)
			gone := rig.InBackground(func() rig.Answer { return a.Login(codes.Code, codes.PhoneCode) })
			rig.Await(t, 10*time.Second, "the phone code is on its way", func() bool { return w.Count(wechattest.PhoneNumber).Total == 1 })
			a.Caddy.Kill9()
			<-gone
			b.Login(codes.Code, codes.PhoneCode).Pair(t)
			rig.WantCalls(t, w, 1, 2)
			if n := w.PhoneOK(); n != 1 {
				t.Errorf("%d exchanges", n)
			}
		})
	})
}

// The database goes down right after WeChat has accepted a phone code, and comes back. One
// replica could not store the result. That must not block anybody, and the other replica must
// be able to use the result.
func TestDatabaseGoneAfterTheExchange(t *testing.T) {
	t.Parallel()
	gone := func(_ *testing.T, s *rig.Server) { s.Stop() }
	back := func(_ *testing.T, s *rig.Server) { s.Start() }
	// This is the state after a failover to a standby that is not promoted yet.
	readOnly := func(on string) func(*testing.T, *rig.Server) {
		return func(t *testing.T, s *rig.Server) {
			s.Run(t, "ALTER SYSTEM SET default_transaction_read_only = "+on)
			s.Run(t, "SELECT pg_reload_conf()")
		}
	}
	for name, c := range map[string]struct {
		kind      string
		from, end func(*testing.T, *rig.Server)
	}{
		"postgres":           {"postgres", gone, back},
		"mysql":              {"mysql", gone, back},
		"postgres read-only": {"postgres", readOnly("on"), readOnly("off")},
	} {
		t.Run(name, func(t *testing.T) {
			server := rig.NewServer(t, c.kind)
			replicas := rig.NewReplicas(t, server.Database, 2)
			a, b := replicas[0], replicas[1]
			w := a.WeChat
			codes := w.Tap(t, number)
			release := holdLate(t, w)
			first := rig.InBackground(func() rig.Answer { return a.Login(codes.Code, codes.PhoneCode) })
			rig.Await(t, 10*time.Second, "WeChat has taken the phone code", func() bool { return taken(w, codes.PhoneCode) })
			c.from(t, server)
			release()
			// If the store can still be read, the directory in it fails first.
			unavailable := func(a rig.Answer) {
				t.Helper()
				code := "store_unavailable"
				if a.Problem(t).Code == "directory_unavailable" && strings.HasSuffix(name, "read-only") {
					code = "directory_unavailable"
				}
				a.WantProblem(t, 503, code, []string{})
			}
			unavailable(<-first)
			for start := time.Now(); time.Since(start) < time.Duration(rig.Rounds(5, 20))*time.Second; {
				for _, r := range replicas {
					unavailable(r.Login(codes.Code, codes.PhoneCode))
				}
			}
			c.end(t, server)
			rig.Await(t, 30*time.Second, "the first replica has stored what it held", func() bool {
				return server.Count(t, "SELECT COUNT(*) FROM wx_auth_kept_steps") == 2
			})
			pair := b.Login(codes.Code, codes.PhoneCode).Pair(t)
			if pair.UserInfo.PhoneNumber != "+86"+number {
				t.Errorf("user %+v", pair.UserInfo)
			}
			if again := a.Login(codes.Code, codes.PhoneCode).Pair(t); again.RefreshToken != pair.RefreshToken {
				t.Error("the first replica opened another session")
			}
			rig.WantCalls(t, w, 1, 1)
		})
	}
}

// Replicas that each fetched their own classic token would invalidate each other's.
// They must share one, and each must find the next token before the old one stops
// working.
func TestReplicasShareClassicTokensForGood(t *testing.T) {
	t.Parallel()
	const life = 6 * time.Second // instead of WeChat's two hours
	run := time.Duration(rig.Rounds(20, 600)) * time.Second
	replicas := rig.PrepareReplicas(t, rig.NewDatabase(t, "postgres"), 2)
	w := replicas[0].WeChat
	if err := w.AlterApp(rig.AppID, func(a *wechattest.App) { a.TokenSeconds = int(life / time.Second) }); err != nil {
		t.Fatal(err)
	}
	caddyfile := rig.Site("wx_auth {env.WX_APPID} {env.WX_SECRET} {\nwechat {\napi {$WX_API}\naccess_token classic\n}\n" +
		"store {env.WX_AUTH_STORE}\nencryption_key {env.WX_AUTH_KEY}\n}\nreverse_proxy {$UPSTREAM}")
	rig.StartReplicas(t, replicas, caddyfile)
	logins := 0
	for start := time.Now(); time.Since(start) < run; logins++ {
		for _, r := range replicas {
			r.MustLogin(t, fmt.Sprintf("136%08d", logins%100))
		}
		time.Sleep(50 * time.Millisecond)
	}
	phones := w.Count(wechattest.PhoneNumber)
	if phones.Outcomes["ok"] != phones.Total {
		t.Errorf("getuserphonenumber: %+v", phones)
	}
	// Each token is used until a sixth of its lifetime is left.
	most := int(run/(life*5/6)) + 2
	if n := w.Count(wechattest.ClassicToken).Total; n < int(run/life) || n > most {
		t.Errorf("%d fetches in %s, of at most %d; %d logins on each replica", n, run, most, logins)
	}
}
