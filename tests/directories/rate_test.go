package directories

import (
	"net/http"
	"strconv"
	"testing"

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
