package directories

import (
	"net/http"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

const testSecret, testNumber = "review-me-please-2026", "13000000000"

func testLogin(g *rig.Gateway) rig.Answer {
	return g.Do(http.MethodPost, "/auth/wx", map[string]string{"testLogin": testSecret})
}

// The backend is asked about a reviewer as about other users, by number and without an openid.
// The number comes from the configuration, even at a refresh.
func TestReviewerOfABackend(t *testing.T) {
	t.Parallel()
	g, b := newHooked(t, "test_login "+testSecret+" +86"+testNumber+" until 2099-12-31", "service_key "+backendKey)
	p := testLogin(g).Pair(t)
	asked := b.events()
	if e := asked[len(asked)-1]; len(asked) != 1 || e.Type != "user.login" || e.OpenID != "" || e.Phone != "+86"+testNumber || e.UserID != "" {
		t.Errorf("asked: %+v", asked)
	}
	p = g.Refresh(p.RefreshToken).Pair(t)
	seen := g.Get("/", p.Token).Seen(t)
	seen.WantHeader(t, "X-WX-USER-ID", "m"+testNumber)
	seen.WantHeader(t, "X-WX-PHONE", "+86"+testNumber)
	seen.WantHeader(t, "X-WX-TEST", "1")

	// A backend's erased user may come back at once, with the same id.
	eraseUser(t, g, "m"+testNumber)
	g.WantEnded(t, p)
	testLogin(g).Pair(t)

	owner := g.MustLogin(t, testNumber)
	g.WantAlive(t, owner)
	testLogin(g).WantProblem(t, http.StatusForbidden, "test_login_taken", nil)
	b.says(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	testLogin(g).WantProblem(t, http.StatusServiceUnavailable, "directory_unavailable", []string{})
	b.says(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
	testLogin(g).WantProblem(t, http.StatusForbidden, "registration_closed", nil)
}

// The backend knows the openid of the number's owner, whom we have never seen. The silent login
// binds it, and the reviewer's session ends.
func TestSilentOwnerEndsTheReview(t *testing.T) {
	t.Parallel()
	g, b := newHooked(t, "test_login "+testSecret+" +86"+testNumber+" until 2099-12-31")
	reviewer := testLogin(g).Pair(t)
	b.says(func(w http.ResponseWriter, r *http.Request) { body(http.StatusOK, `{"id":"m`+testNumber+`"}`)(w, r) })
	owner := g.Silent(g.WeChat.OpenAs(t, rig.AppID, "owner").Code).Pair(t)
	if owner.UserInfo.ID != reviewer.UserInfo.ID {
		t.Fatalf("the owner is %+v", *owner.UserInfo)
	}
	g.WantEnded(t, reviewer)
	g.WantAlive(t, owner)
	testLogin(g).WantProblem(t, http.StatusForbidden, "test_login_taken", nil)
}

// A reviewer is a member of the table like others.
func TestReviewerOfATable(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, g *rig.Gateway, db *rig.Database) {
		g.Start(t, strings.Replace(tableSite(find, create, check), "identity", "test_login "+testSecret+" +86"+testNumber+" until 2099-12-31\nidentity", 1))
		p := testLogin(g).Pair(t)
		if p.UserInfo.ID != "42" {
			t.Errorf("%+v", *p.UserInfo)
		}
		p = g.Refresh(p.RefreshToken).Pair(t)
		g.Get("/", p.Token).Seen(t).WantHeader(t, "X-WX-PHONE", "+86"+testNumber)
		db.Run(t, `UPDATE members SET banned = TRUE WHERE id = 42`)
		testLogin(g).WantProblem(t, http.StatusForbidden, "user_disabled", nil)
		g.WantEnded(t, p)
	})
}
