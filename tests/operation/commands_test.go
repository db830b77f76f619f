package operation

import (
	"database/sql"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// operator runs the commands of wx-auth for a gateway, with the gateway's
// configuration.
type operator struct {
	*rig.Gateway
	caddyfile string
}

// command runs a command, which must succeed, and returns its complete output.
func (o operator) command(t testing.TB, args ...string) string {
	t.Helper()
	out, err := o.try(t, args...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", args, err, out)
	}
	return out
}

func (o operator) try(t testing.TB, args ...string) (string, error) {
	t.Helper()
	path := filepath.Join(o.Caddy.Home, "Caddyfile.command")
	if err := os.WriteFile(path, []byte(o.caddyfile), 0o600); err != nil {
		t.Fatal(err)
	}
	return o.Caddy.Command(append(append([]string{"wx-auth"}, args...), "--config", path, "--adapter", "caddyfile")...)
}

// use returns the use of a key as `keys list` prints it, or "" if the key is not
// listed.
func (o operator) use(t testing.TB, kid string) string {
	t.Helper()
	for line := range strings.Lines(o.command(t, "keys", "list")) {
		if fields := strings.Fields(line); len(fields) > 3 && fields[0] == kid {
			return fields[3]
		}
	}
	return ""
}

// published returns the JWKS.
func published(t testing.TB, r *rig.Gateway) string { return r.Get("/auth/wx/jwks.json", "").Body }

// An operator rotates the keys by hand. Verifiers learn of the new key before it signs,
// and no token is refused.
func TestKeysAreRotatedByHand(t *testing.T) {
	t.Parallel()
	o := operator{rig.NewGateway(t), rig.GatewaySite()}
	p := o.MustLogin(t, "13800138000")
	old := kid(t, p.Token)
	if use := o.use(t, old); use != "signs" {
		t.Errorf("the key that signs is listed as %q", use)
	}
	out := o.command(t, "keys", "rotate")
	if !strings.Contains(out, "published, signs from ") {
		t.Fatal(out)
	}
	_, after, _ := strings.Cut(out, "ES256 key ")
	next, _, _ := strings.Cut(after, ":")
	if use := o.use(t, next); use != "next" {
		t.Errorf("the next key %q is listed as %q", next, use)
	}
	if again := o.command(t, "keys", "rotate"); !strings.Contains(again, next+": published already") {
		t.Errorf("twice: %s", again)
	}
	// The gateway reads the keys each minute and at a reload.
	o.MustReload(t, rig.GatewaySite())
	if set := published(t, o.Gateway); !strings.Contains(set, next) || !strings.Contains(set, old) {
		t.Errorf("the JWKS is %s", set)
	}
	if p := o.WantSame(t, p, "13800138000"); kid(t, p.Token) != old {
		t.Error("the next key signs before everybody knows it")
	}
}

// A signing key has leaked. The operator drops it: its tokens stop working, and clients
// refresh.
func TestCompromisedKeyIsDropped(t *testing.T) {
	t.Parallel()
	o := operator{rig.NewGateway(t), rig.GatewaySite()}
	p := o.MustLogin(t, "13800138000")
	bad := kid(t, p.Token)
	if out, err := o.try(t, "keys", "rotate", "--compromised", "nobody"); err == nil || !strings.Contains(out, "there is no key") {
		t.Errorf("an unknown kid: %v\n%s", err, out)
	}
	out := o.command(t, "keys", "rotate", "--compromised", bad)
	if !strings.Contains(out, bad+" is deleted") || !strings.Contains(out, "signs from now on") || !strings.Contains(out, "Within a minute") {
		t.Error(out)
	}
	if use := o.use(t, bad); use != "" {
		t.Errorf("it is still listed, as %q", use)
	}
	o.MustReload(t, rig.GatewaySite())
	o.Get("/", p.Token).WantProblem(t, http.StatusUnauthorized, "token_invalid", nil)
	if set := published(t, o.Gateway); strings.Contains(set, bad) {
		t.Errorf("it is published: %s", set)
	}
	next := o.Refresh(p.RefreshToken).Pair(t)
	if kid(t, next.Token) == bad {
		t.Error("it signs")
	}
	o.WantAlive(t, next)
}

// A replica that meets a token of an unknown key reads the keys, so it notices a
// dropped key without a reload.
func TestDroppedKeyIsNoticedByAnUnknownHeader(t *testing.T) {
	t.Parallel()
	o := operator{rig.NewGateway(t), rig.GatewaySite()}
	p := o.MustLogin(t, "13800138000")
	o.command(t, "keys", "rotate", "--compromised", kid(t, p.Token))
	// This is one of our headers, with an unknown kid.
	header, rest, _ := strings.Cut(p.Token, ".")
	stranger := strings.Replace(header, header[30:34], "AAAA", 1) + "." + rest
	rig.Await(t, 30*time.Second, "the dropped key is refused", func() bool {
		o.Get("/", stranger)
		return o.Get("/", p.Token).Status == http.StatusUnauthorized
	})
}

// An operator changes the algorithm. Tokens of both algorithms are accepted until the
// old ones expire.
func TestAlgorithmIsChanged(t *testing.T) {
	t.Parallel()
	with := func(alg string) string { return rig.GatewaySite("token {\nalgorithm " + alg + "\n}") }
	r := rig.NewGatewayWith(t, with("ES256"))
	before := r.MustLogin(t, "13800138000")
	r.MustReload(t, with("EdDSA"))
	// The new key is published first; until it signs, the former one does.
	between := r.WantSame(t, before, "13800138000")
	if alg := rig.JWTPart(t, between.Token, 0)["alg"]; alg != "ES256" {
		t.Errorf("signed with %v before everybody knows the key", alg)
	}
	if set := published(t, r); !strings.Contains(set, "EdDSA") || !strings.Contains(set, "ES256") {
		t.Errorf("the JWKS is %s", set)
	}
	o := operator{r, with("EdDSA")}
	old := kid(t, before.Token)
	if use := o.use(t, old); use != "signs" {
		t.Errorf("the former algorithm's key is listed as %q", use)
	}
	// In the store, ten minutes pass.
	if _, err := r.Caddy.OpenStore(t).Exec(`UPDATE wx_auth_signing_keys SET signs_from = signs_from - 600000 WHERE algorithm = 'EdDSA'`); err != nil {
		t.Fatal(err)
	}
	r.MustReload(t, with("EdDSA"))
	after := r.MustLogin(t, "13900139000")
	if alg := rig.JWTPart(t, after.Token, 0)["alg"]; alg != "EdDSA" {
		t.Errorf("signed with %v after the change", alg)
	}
	for name, token := range map[string]string{"before": before.Token, "between": between.Token, "after": after.Token} {
		if a := r.Get("/", token); a.Status != http.StatusOK {
			t.Errorf("a token of %s the change: %d %s", name, a.Status, a.Body)
		}
	}
	if use := o.use(t, old); use != "verifies" {
		t.Errorf("then it is listed as %q", use)
	}
}

// An operator changes the encryption key, first with both keys configured, then with
// `rekey`. All sessions go on.
func TestEncryptionKeyIsChanged(t *testing.T) {
	t.Parallel()
	for _, compromised := range []bool{false, true} {
		t.Run(fmt.Sprintf("compromised %v", compromised), func(t *testing.T) {
			t.Parallel()
			with := func(keys string) string { return rig.GatewaySite("encryption_key " + keys) }
			o := operator{Gateway: &rig.Gateway{WeChat: rig.NewWeChat(t), Upstream: rig.NewUpstream(t)}}
			keys := []string{randomKey(), randomKey()}
			o.Caddy = rig.StartCaddy(t, with("{env.KEY}"), append(o.WeChat.Environ(o.Upstream.Addr), "KEY="+keys[0], "NEWER="+keys[1])...)
			o.Client = o.Caddy.Client()
			tablet, phone := o.MustLogin(t, "13800138000"), o.MustLogin(t, "13900139000")

			o.caddyfile = with("{env.NEWER} {env.KEY}")
			o.MustReload(t, o.caddyfile)
			args := []string{"rekey"}
			if compromised {
				args = append(args, "--compromised")
			}
			out := o.command(t, args...)
			if !strings.Contains(out, "everything is sealed with the newest key") {
				t.Fatal(out)
			}
			o.WantAlive(t, tablet)
			if err := o.Caddy.Reload(with("{env.KEY}")); err == nil {
				t.Error("the old key alone was taken")
			}

			o.caddyfile = with("{env.NEWER}")
			o.MustReload(t, o.caddyfile)
			out += o.command(t, args...)
			if compromised {
				o.Refresh(phone.RefreshToken).WantProblem(t, http.StatusUnauthorized, "refresh_invalid", nil)
				if again := o.Silent(o.WeChat.Open(t, "13900139000").Code).Pair(t); again.UserInfo.ID != phone.UserInfo.ID {
					t.Error("the silent login is another user's")
				}
			} else {
				// The claims of these tokens, and these refresh tokens, were made with
				// the old key.
				o.WantSame(t, tablet, "13800138000")
				o.WantSame(t, phone, "13900139000")
			}
			if again := o.MustLogin(t, "13800138000"); again.UserInfo.ID != tablet.UserInfo.ID || again.UserInfo.IsNew {
				t.Errorf("the owner of the number is %+v, want %s", again.UserInfo, tablet.UserInfo.ID)
			}
			for _, secret := range keys {
				if strings.Contains(out+o.Caddy.Log.String(), secret) {
					t.Error("an encryption key was printed")
				}
			}
		})
	}
}

// A team imports its users with their openids. They log in silently from the first day.
func TestImportedUsersLogInSilentlyAtOnce(t *testing.T) {
	t.Parallel()
	o := operator{rig.NewGateway(t), rig.GatewaySite()}
	owner := o.MustLogin(t, "13700137000")
	alice, bob := o.WeChat.Open(t, "13800138000"), o.WeChat.Open(t, "13900139000")
	o.Silent(alice.Code).WantProblem(t, http.StatusForbidden, "phone_required", nil)

	file := filepath.Join(o.Caddy.Home, "users.csv")
	write := func(lines ...string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	good := []string{
		"appid,openid,unionid,phone,user id",
		rig.AppID + "," + alice.OpenID + ",,+8613800138000,alice-1",
		rig.AppID + "," + bob.OpenID + ",,13900139000,",
	}
	write(good...)
	if out := o.command(t, "import", file); !strings.Contains(out, "2 users and 2 openids are new, 0 lines were known, 0 refused") {
		t.Fatal(out)
	}
	p := o.Silent(o.WeChat.Open(t, "13800138000").Code).Pair(t)
	if p.UserInfo.ID != "alice-1" || p.UserInfo.PhoneNumber != "+8613800138000" || p.UserInfo.IsNew {
		t.Errorf("the user is %+v", p.UserInfo)
	}
	o.Get("/", p.Token).Seen(t).WantHeader(t, "X-WX-PHONE", "+8613800138000")
	o.Silent(bob.Code).Pair(t)

	// The import is repeated, with lines that contradict what is known.
	write(append(good,
		rig.AppID+",another,,+8613700137000,somebody",
		"wx0000000000000000,o,,+8613600136000,")...)
	out, err := o.try(t, "import", file)
	if err == nil || !strings.Contains(out, "0 users and 0 openids are new, 2 lines were known, 2 refused") ||
		!strings.Contains(out, "line 4: +86137****7000: the phone number belongs to another user in the store") ||
		!strings.Contains(out, "line 5: +86136****6000: the appid is none of those that the configuration serves") {
		t.Errorf("%v\n%s", err, out)
	}
	if strings.Contains(out, "13700137000") || strings.Contains(out, "13600136000") {
		t.Errorf("a phone number was printed:\n%s", out)
	}
	o.WantSame(t, owner, "13700137000")
}

// A command is run with a wrong configuration. It must not create an empty store, and
// says what is missing.
func TestCommandsCreateNoStore(t *testing.T) {
	t.Parallel()
	w := rig.NewWeChat(t)
	o := operator{&rig.Gateway{WeChat: w}, rig.GatewaySite()}
	o.Caddy = rig.NewCaddy(t, w.Environ("127.0.0.1:1")...)
	for _, args := range [][]string{{"keys", "list"}, {"keys", "rotate"}, {"rekey"}, {"import", os.DevNull}} {
		if out, err := o.try(t, args...); err == nil || !strings.Contains(out, "start Caddy with this configuration first") {
			t.Errorf("%v without a store: %v\n%s", args, err, out)
		}
	}
	if _, err := os.Stat(o.Caddy.StoreFile()); !os.IsNotExist(err) {
		t.Errorf("a store was made: %v", err)
	}
	o.caddyfile = rig.Site("respond hi")
	if out, err := o.try(t, "keys", "list"); err == nil || !strings.Contains(out, "there is no wx_auth in it") {
		t.Errorf("without a directive: %v\n%s", err, out)
	}
	o.caddyfile = rig.GatewaySite("encryption_key {env.NOBODY_SET_IT}")
	if out, err := o.try(t, "keys", "list"); err == nil || !strings.Contains(out, "set the environment variable NOBODY_SET_IT") {
		t.Errorf("without the key: %v\n%s", err, out)
	}
}

// A database administrator creates the printed schema, and the gateway runs with
// `migrate off`.
func TestPrintedSchemaServesWithMigrateOff(t *testing.T) {
	t.Parallel()
	w, up := rig.NewWeChat(t), rig.NewUpstream(t)
	c := rig.NewCaddy(t, w.Environ(up.Addr)...)
	site := rig.GatewaySite("store sqlite:{$HOME}/own.db {\nmigrate off\ntable_prefix own_\n}")
	if err := c.TryStart(site); err == nil {
		t.Fatal("it started without tables")
	}
	c.Log.Wait(t, 20*time.Second, "migrate off")
	text, err := c.Command("wx-auth", "schema", "sqlite", "--table-prefix", "own_")
	if err != nil {
		t.Fatal(err, text)
	}
	db, err := sql.Open("sqlite", "file://"+filepath.Join(c.Home, "own.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(text); err != nil {
		t.Fatal(err)
	}
	c.Start(site)
	r := &rig.Gateway{Client: c.Client(), Caddy: c, WeChat: w, Upstream: up}
	r.WantSame(t, r.MustLogin(t, "13800138000"), "13800138000")
}

// In a cluster, a SQLite store on each node would split the sessions, so there is a
// warning.
func TestSQLiteInAClusterLogsAWarning(t *testing.T) {
	t.Parallel()
	w := rig.NewWeChat(t)
	c := rig.StartCaddy(t, rig.GatewaySite(), append(w.Environ("127.0.0.1:1"), "KUBERNETES_SERVICE_HOST=10.0.0.1")...)
	c.Log.Wait(t, 20*time.Second, "looks like a Kubernetes cluster", "remedy")
	alone := rig.StartCaddy(t, rig.GatewaySite(), w.Environ("127.0.0.1:1")...)
	if lines := alone.Log.Lines("Kubernetes"); len(lines) > 0 {
		t.Errorf("without a cluster: %s", lines[0])
	}
}
