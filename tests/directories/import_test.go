package directories

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A team with a backend imports the openids of its users, who then log in silently from
// the first day.
func TestImportBindsOpenidsToBackendUsers(t *testing.T) {
	t.Parallel()
	g, _ := newHooked(t)
	known := g.WeChat.Open(t, number)
	file := filepath.Join(g.Caddy.Home, "users.csv")
	lines := "appid,openid,unionid,phone,user id\n" +
		"wx0123456789abcdef," + known.OpenID + ",,,m" + number + "\n" +
		"wx0123456789abcdef,somebody,,+86" + other + ",\n"
	if err := os.WriteFile(file, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := g.Caddy.Command("wx-auth", "import", file, "--config", filepath.Join(g.Caddy.Home, "Caddyfile"))
	if err == nil || !strings.Contains(out, "0 users and 1 openids are new, 0 lines were known, 1 refused") ||
		!strings.Contains(out, "line 3: +86139****9000: the users live in a directory of your own, so their id there is needed") {
		t.Fatalf("%v\n%s", err, out)
	}
	p := g.Silent(g.WeChat.Open(t, number).Code).Pair(t)
	if p.UserInfo.ID != "m"+number {
		t.Errorf("the user is %+v", p.UserInfo)
	}
	g.Silent(g.WeChat.Open(t, other).Code).WantProblem(t, http.StatusForbidden, "phone_required", nil)
}
