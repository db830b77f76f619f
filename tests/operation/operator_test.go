package operation

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// A developer asks why a token is refused. The command shows what the token says, and the
// fault. It shows the sealed number only on demand, and never any part of the token.
func TestTokenIsInspected(t *testing.T) {
	t.Parallel()
	g := rig.NewGateway(t)
	o := rig.Operator{Caddy: g.Caddy, Caddyfile: rig.GatewaySite()}
	p := g.MustLogin(t, "13800138000")
	inspect := func(token string, args ...string) string {
		t.Helper()
		out, err := o.Try(t, token, append([]string{"token", "inspect"}, args...)...)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for _, part := range strings.Split(token, ".") {
			if strings.Contains(out, part) {
				t.Errorf("a part of the token is in the output:\n%s", out)
			}
		}
		return out
	}
	out := inspect("Authorization: Bearer " + p.Token + "\n")
	if !strings.Contains(out, ": accepted") || !strings.Contains(out, p.UserInfo.ID) || strings.Contains(out, "13800138000") {
		t.Errorf("a good token:\n%s", out)
	}
	if out := inspect(p.Token, "--unseal"); !strings.Contains(out, "+8613800138000") {
		t.Errorf("--unseal:\n%s", out)
	}
	file := filepath.Join(g.Caddy.Home, "token")
	if err := os.WriteFile(file, []byte(p.Token), 0o600); err != nil {
		t.Fatal(err)
	}
	var said struct {
		Accepted bool
		Claims   map[string]any
		Sites    []struct{ Reason string }
	}
	if err := o.JSON(t, &said, "token", "inspect", file); err != nil || !said.Accepted || said.Claims["sub"] != p.UserInfo.ID {
		t.Errorf("--json: %+v", said)
	}
	changed := p.Token[:len(p.Token)-6] + "AAAAAA"
	if out := inspect(changed, "--unseal"); !strings.Contains(out, "refused: the signature") || strings.Contains(out, "13800138000") {
		t.Errorf("a changed token:\n%s", out)
	}
	another := rig.NewGateway(t).MustLogin(t, "13800138000")
	if out := inspect(another.Token); !strings.Contains(out, "refused: the key ") {
		t.Errorf("another gateway's token:\n%s", out)
	}
	g.Logout(p.Token, "", false).Want(t, http.StatusNoContent)
	if out := inspect(p.Token); !strings.Contains(out, "refused: its session ended at") || !strings.Contains(out, "(logout)") {
		t.Errorf("a token after the logout:\n%s", out)
	}
	for _, text := range []string{"", "gibberish.and.dots", p.RefreshToken} {
		if out, err := o.Try(t, text, "token", "inspect"); err == nil || text != "" && strings.Contains(out, text) {
			t.Errorf("no token: %v\n%s", err, out)
		}
	}
	if out, err := o.Try(t, "", "token", "inspect", p.Token); err == nil || strings.Contains(out, p.Token) {
		t.Errorf("a token as argument: %v\n%s", err, out)
	}
}

// The commands take the environment from the file that the service uses. They read the file as
// Caddy's own commands do.
func TestCommandsReadTheEnvironmentFile(t *testing.T) {
	t.Parallel()
	g := rig.NewGateway(t)
	p := g.MustLogin(t, "13800138000")
	text := "# the service's\n\nexport KEY=" + randomKey() + "  # a comment\nADDR=not-this-one\nSTORE='sqlite:" + g.Caddy.StoreFile() + "'\nLINES=\"a\nb\"\n"
	file := filepath.Join(g.Caddy.Home, "wx.env")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	o := rig.Operator{Caddy: g.Caddy, Caddyfile: rig.GatewaySite("store {env.STORE}")}
	if out, err := o.Try(t, "", "users", "list"); err == nil || !strings.Contains(out, "set the environment variable STORE") {
		t.Errorf("without the file: %v\n%s", err, out)
	}
	if out := o.Run(t, "users", "list", "--envfile", file); !strings.Contains(out, p.UserInfo.ID) {
		t.Errorf("with the file:\n%s", out)
	}
	if out, err := o.Try(t, "", "users", "list", "--envfile", file+"-not"); err == nil {
		t.Errorf("without such a file:\n%s", out)
	}
	if err := os.WriteFile(file, []byte("SECRET 0123456789\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := o.Try(t, "", "users", "list", "--envfile", file); err == nil || strings.Contains(out, "0123456789") {
		t.Errorf("a file of another form: %v\n%s", err, out)
	}
}

// A client chooses its User-Agent. In the operator's terminal it appears as text, without
// control characters.
func TestUserAgentControlsNoTerminal(t *testing.T) {
	t.Parallel()
	g := rig.NewGateway(t)
	codes := g.WeChat.Tap(t, "13800138000")
	p := g.Do(http.MethodPost, "/auth/wx", map[string]string{"code": codes.Code, "phoneCode": codes.PhoneCode}, "User-Agent: evil\u202etxt").Pair(t)
	out := rig.Operator{Caddy: g.Caddy, Caddyfile: rig.GatewaySite()}.Run(t, "sessions", "list", p.UserInfo.ID)
	if !strings.Contains(out, "evil?txt") {
		t.Errorf("the table is %q", out)
	}
}

// Scripts read the list of keys as JSON.
func TestKeysAreListedForScripts(t *testing.T) {
	t.Parallel()
	g := rig.NewGateway(t)
	p := g.MustLogin(t, "13800138000")
	var list struct {
		Stores []struct{ Keys []struct{ Kid, Use string } }
	}
	err := rig.Operator{Caddy: g.Caddy, Caddyfile: rig.GatewaySite()}.JSON(t, &list, "keys", "list")
	if err != nil || len(list.Stores) != 1 || list.Stores[0].Keys[0].Kid != kid(t, p.Token) || list.Stores[0].Keys[0].Use != "signs" {
		t.Errorf("%v, %+v", err, list)
	}
}

// An operator's screen is seen by others, and a script's output is kept. So nothing that the
// commands write, for people or for scripts, contains a token, a secret or a phone number.
func TestCommandsWriteNoSecret(t *testing.T) {
	t.Parallel()
	g := rig.NewGateway(t)
	o := rig.Operator{Caddy: g.Caddy, Caddyfile: rig.GatewaySite()}
	hoarded := &rig.Hoard{W: g.WeChat}
	p := hoarded.Pair(g.MustLogin(t, "13800138000"))
	key, err := os.ReadFile(g.Caddy.StoreFile() + ".key")
	if err != nil {
		t.Fatal(err)
	}
	hoarded.Add("13800138000", strings.TrimSpace(string(key)), rig.Secret)
	search := hoarded.Search()
	id := p.UserInfo.ID
	for _, args := range [][]string{
		{"users", "find", id}, {"users", "find", "13800138000"}, {"users", "list"}, {"users", "show", id}, {"users", "disable", id}, {"users", "enable", id},
		{"sessions", "list", id}, {"sessions", "list", id, "--ended"}, {"keys", "list"}, {"token", "inspect"}, {"doctor"}, {"sessions", "end", "--user", id}, {"users", "erase", id},
	} {
		for _, form := range [][]string{nil, {"--json"}} {
			out, err := o.Try(t, p.Token, append(args, form...)...)
			if err != nil && !slices.Contains(args, "erase") { // the second time the user is already erased
				t.Errorf("%v: %v\n%s", args, err, out)
			}
			search.WantNone(t, fmt.Sprint(args, form), out)
		}
	}
}
