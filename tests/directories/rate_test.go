package directories

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// One client calls /me, or presents one refresh token, as often as it can. The backend gets a
// bounded number of calls, a lost answer can still be repeated, and other users notice
// nothing.
func TestOneSessionAsksTheBackendSoOften(t *testing.T) {
	t.Parallel()
	g, b := newHooked(t)
	eve, ann := g.MustLogin(t, number), g.MustLogin(t, other)
	asked := func(userID string) (n int) {
		for _, e := range b.events() {
			if e.Type == "user.check" && e.UserID == userID {
				n++
			}
		}
		return n
	}
	limited := func(a rig.Answer) bool {
		t.Helper()
		if a.Status != http.StatusTooManyRequests {
			a.Want(t, http.StatusOK)
			return false
		}
		a.WantProblem(t, http.StatusTooManyRequests, "rate_limited", nil)
		if wait, _ := strconv.Atoi(a.Header.Get("Retry-After")); wait < 1 || wait > 60 {
			t.Errorf("Retry-After %q", a.Header.Get("Retry-After"))
		}
		return true
	}
	refused := 0
	for range 100 {
		if limited(g.Me(eve.Token)) {
			refused++
		}
	}
	if n := asked("m" + number); refused == 0 || n+refused != 100 || n > 70 {
		t.Errorf("the backend was asked %d times, %d were refused", n, refused)
	}
	before := asked("m" + number)
	next, refused := g.Refresh(eve.RefreshToken).Pair(t), 0
	for i := range 100 {
		a := g.Refresh(eve.RefreshToken)
		if limited(a) {
			refused++
		} else if again := a.Pair(t); again.RefreshToken != next.RefreshToken {
			t.Fatal("the repeat got another refresh token")
		}
		if i < 10 && refused > 0 {
			t.Fatalf("repeat %d is refused", i)
		}
	}
	if n := asked("m"+number) - before; refused == 0 || n+refused != 101 || n > 70 {
		t.Errorf("the backend was asked %d times, %d were refused", n, refused)
	}
	if limited(g.Me(ann.Token)) || limited(g.Refresh(ann.RefreshToken)) {
		t.Error("somebody else is refused")
	}
}

// closed is a number that the backend does not register.
const closed = "13700137009"

// One WeChat account sends the same codes, or fresh ones, as often as it can. Nothing else limits
// logins that WeChat does not refuse. The backend gets a bounded number of calls, no paid phone
// code is lost, and other accounts notice nothing.
func TestOneAccountLogsInSoOften(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		send func(g *rig.Gateway) func() rig.Answer
		want int // the status below the limit
	}{
		{"the same good pair", func(g *rig.Gateway) func() rig.Answer {
			codes := g.WeChat.TapAs(t, rig.AppID, "ann", wechattest.Phone{Number: number})
			return func() rig.Answer { return g.Login(codes.Code, codes.PhoneCode) }
		}, http.StatusOK},
		{"one code of a stranger", func(g *rig.Gateway) func() rig.Answer {
			code := g.WeChat.OpenAs(t, rig.AppID, "eve").Code
			return func() rig.Answer { return g.Silent(code) }
		}, http.StatusForbidden},
		{"fresh codes of a stranger", func(g *rig.Gateway) func() rig.Answer {
			return func() rig.Answer { return g.Silent(g.WeChat.OpenAs(t, rig.AppID, "eve").Code) }
		}, http.StatusForbidden},
		{"registration is closed", func(g *rig.Gateway) func() rig.Answer {
			codes := g.WeChat.TapAs(t, rig.AppID, "mallory", wechattest.Phone{Number: closed})
			return func() rig.Answer { return g.Login(codes.Code, codes.PhoneCode) }
		}, http.StatusForbidden},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			g, b := newHooked(t)
			b.says(func(w http.ResponseWriter, r *http.Request) {
				b.mu.Lock()
				e := b.asked[len(b.asked)-1]
				b.mu.Unlock()
				switch e.Phone {
				case "", "+86" + closed:
					w.WriteHeader(http.StatusNotFound)
				default:
					body(http.StatusOK, `{"id":"m`+strings.TrimPrefix(e.Phone, "+86")+`"}`)(w, r)
				}
			})
			asked := func() (n int) {
				for _, e := range b.events() {
					if e.Type == "user.login" {
						n++
					}
				}
				return n
			}
			send, refused := tc.send(g), 0
			for i := range 80 {
				a := send()
				if a.Status != http.StatusTooManyRequests {
					a.Want(t, tc.want)
					continue
				}
				if refused++; i < 30 {
					t.Fatalf("login %d is refused", i)
				}
				a.WantProblem(t, http.StatusTooManyRequests, "rate_limited", nil)
				if wait, _ := strconv.Atoi(a.Header.Get("Retry-After")); wait < 1 || wait > 60 {
					t.Errorf("Retry-After %q", a.Header.Get("Retry-After"))
				}
			}
			if n := asked(); refused == 0 || n+refused != 80 || n > 60 {
				t.Errorf("the backend was asked %d times, %d were refused", n, refused)
			}
			if n := g.WeChat.Count(wechattest.PhoneNumber).Total; n > 1 {
				t.Errorf("%d phone codes were paid for", n)
			}
			metrics, err := g.Caddy.Admin("/metrics")
			if want := fmt.Sprintf(`outcome="rate_limited"} %d`+"\n", refused); err != nil || !strings.Contains(metrics, want) {
				t.Errorf("%v, the metrics have no %s", err, want)
			}
			time.Sleep(3 * time.Second)
			if a := send(); a.Status != tc.want {
				t.Errorf("after the wait: %d %s", a.Status, a.Body)
			}
			g.MustLogin(t, other)
			for _, line := range g.Caddy.Log.Lines(`"level":"error"`) {
				t.Errorf("logged: %s", line)
			}
		})
	}
}

// The store's own directory costs nobody anything: it has no such limit.
func TestStoreIsAskedWithoutALimit(t *testing.T) {
	t.Parallel()
	g := rig.NewGateway(t)
	codes := g.WeChat.Tap(t, number)
	for range 45 {
		g.Login(codes.Code, codes.PhoneCode).Pair(t)
	}
}
