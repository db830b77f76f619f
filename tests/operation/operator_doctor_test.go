package operation

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// strict is the recommended global option for trusted proxies.
const strict = "servers {\ntrusted_proxies static private_ranges\ntrusted_proxies_strict\n}"

// doctorSite is a site for the doctor, with more options of wx_auth and global ones.
func doctorSite(secret, api, options, global string) string {
	return rig.Site("wx_auth {env.WX_APPID} "+secret+" {\nwechat {\napi "+api+"\n}\n"+options+"\n}\nrespond hi", global)
}

// finding is a line of the doctor for scripts.
type finding struct{ Check, Subject, State, Text, Remedy string }

// A deployment fails on the first day, and the operator asks why. Each of these faults has its
// own line that says what to do, and the exit code is 1. Without a fault it is 0.
func TestDoctorFindsFaults(t *testing.T) {
	t.Parallel()
	g := rig.NewGateway(t)
	p := g.MustLogin(t, "13800138000")
	slow := rig.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(-10*time.Minute).UTC().Format(http.TimeFormat))
		fmt.Fprint(w, `{"access_token":"access-token-of-the-doctor","expires_in":7200}`)
	}))
	open, err := os.MkdirTemp("", "wx-auth-doctor-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(open) })
	env := filepath.Join(open, "wx.env")
	if err := os.WriteFile(env, []byte("SERVICE="+rig.ServiceKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(env, 0o644); err != nil {
		t.Fatal(err)
	}
	const good, sim = "{env.WX_SECRET}", "{$WX_API}"
	for _, c := range []struct {
		name, caddyfile string
		fault           *wechattest.Fault
		envfile         string
		want            []finding // the faults; the doctor's texts and remedies contain these
	}{
		{"nothing", doctorSite(good, sim, "", strict), nil, "", nil},
		{"wrong secret", doctorSite("0123456789abcdef0123456789abcdef", sim, "", strict), nil, "", []finding{
			{Check: "secret", Subject: "apps secret", Text: "is written in the configuration", Remedy: "{env.NAME}"},
			{Check: "wechat", Subject: rig.AppID, Text: "errcode 40125", Remedy: "check the AppSecret"}}},
		{"whitelist", doctorSite(good, sim, "", strict),
			&wechattest.Fault{Kind: wechattest.Errcode, Errcode: 40164, Errmsg: "invalid ip 14.22.81.196 ipv6 ::ffff:14.22.81.196, not in whitelist rid: 65713974-7970e3f9-1a07ebbf"}, "",
			[]finding{{Check: "wechat", Subject: rig.AppID, Text: "14.22.81.196", Remedy: "IP whitelist"}}},
		{"unknown line", doctorSite(good, sim, "wechat_realm", strict), nil, "", []finding{
			{Check: "configuration", Text: "wechat_realm"}}},
		{"variable not set", doctorSite(good, sim, "", strict) + "\n{$WX_AUTH_NOWHERE:set://WX_AUTH_NOWHERE} {\n}\n", nil, "", []finding{
			{Check: "configuration", Text: "set://", Remedy: "--envfile"}}},
		{"WeChat away", doctorSite(good, "http://127.0.0.1:9\nrealm {$WX_REALM}", "", strict), nil, "", []finding{
			{Check: "wechat", Subject: rig.AppID, Text: "127.0.0.1:9", Remedy: "reaches the host"}}},
		{"clock", doctorSite(good, "http://"+slow+"\nrealm {$WX_REALM}", "", strict), nil, "", []finding{
			{Check: "clock", Subject: "WeChat's", Text: "differs from ours by ", Remedy: "NTP"}}},
		{"another WeChat", doctorSite(good, "http://"+slow, "", strict), nil, "", []finding{
			{Check: "clock", Subject: "WeChat's", Text: "differs from ours by ", Remedy: "NTP"},
			{Check: "store", Text: "WeChat", Remedy: "realm"}}},
		{"encryption key", doctorSite(good, sim, "encryption_key "+randomKey(), strict), nil, "", []finding{
			{Check: "secret", Subject: "encryption_keys", Text: "is written in the configuration"},
			{Check: "store", Text: "wrong encryption key"}}},
		{"no store", doctorSite(good, sim, "store sqlite:{$HOME}/other/none.db", strict), nil, "", []finding{
			{Check: "store", Text: "none.db", Remedy: "run this as the user that runs Caddy"}}},
		{"missing variable", doctorSite("{env.NOBODY_SET_IT}", sim, "", strict), nil, "", []finding{
			{Check: "configuration", Text: "set the environment variable NOBODY_SET_IT"}}},
		{"proxies not strict", doctorSite(good, sim, "", "servers {\ntrusted_proxies static private_ranges\n}"), nil, "", []finding{
			{Check: "proxies", Text: "not strict", Remedy: "trusted_proxies_strict"}}},
		{"everybody a proxy", doctorSite(good, sim, "", "servers {\ntrusted_proxies static 0.0.0.0/0\ntrusted_proxies_strict\n}"), nil, "", []finding{
			{Check: "proxies", Text: "0.0.0.0/0", Remedy: "private_ranges"}}},
		{"no environment file", doctorSite(good, sim, "", strict), nil, "/nowhere.env", []finding{
			{Check: "configuration", Text: "/nowhere.env", Remedy: "the file is missing"}}},
		{"readable environment", doctorSite(good, sim, "service_key {env.SERVICE}", strict), nil, env, []finding{
			{Check: "file", Subject: env, Text: "mode 0644", Remedy: "chmod 600"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.fault != nil {
				if err := g.WeChat.Inject(*c.fault); err != nil {
					t.Fatal(err)
				}
			}
			o := rig.Operator{Caddy: g.Caddy, Caddyfile: strings.ReplaceAll(c.caddyfile, "{$WX_REALM}", strings.TrimPrefix(g.WeChat.URL, "http://"))}
			args := []string{"doctor"}
			if c.envfile != "" {
				args = append(args, "--envfile", c.envfile)
			}
			var said struct {
				OK     bool
				Checks []finding
			}
			failed := o.JSON(t, &said, args...)
			if said.OK != (failed == nil) || said.OK != (len(c.want) == 0) {
				t.Errorf("ok is %v, the command's error %v: %+v", said.OK, failed, said.Checks)
			}
			for _, f := range said.Checks {
				if f.State != "wrong" {
					continue
				}
				found := false
				for _, w := range c.want {
					found = found || f.Check == w.Check && strings.Contains(f.Subject, w.Subject) && strings.Contains(f.Text, w.Text) && strings.Contains(f.Remedy, w.Remedy)
				}
				if !found || f.Remedy == "" {
					t.Errorf("is wrong: %+v", f)
				}
			}
			for _, w := range c.want {
				found := false
				for _, f := range said.Checks {
					found = found || f.State == "wrong" && f.Check == w.Check && strings.Contains(f.Text, w.Text)
				}
				if !found {
					t.Errorf("not found: %+v in %+v", w, said.Checks)
				}
			}
		})
	}
	out, err := g.Caddy.Command("wx-auth", "doctor", "--json", "--config", "/nowhere/Caddyfile")
	if err == nil || !strings.Contains(out, "/nowhere/Caddyfile") || !strings.Contains(out, "the file is missing") {
		t.Errorf("a missing configuration: %v\n%s", err, out)
	}
	// None of this has changed anything for the running gateway.
	g.WantAlive(t, p)
	g.WantSame(t, p, "13800138000")
}

// A person reads a line for each check. No secret is in any of them.
func TestDoctorWritesLinesWithoutSecrets(t *testing.T) {
	t.Parallel()
	g := rig.NewGateway(t)
	const literal = "0123456789abcdef0123456789abcdef"
	o := rig.Operator{Caddy: g.Caddy, Caddyfile: doctorSite(literal, "{$WX_API}", "service_key "+rig.ServiceKey, "")}
	out, err := o.Try(t, "", "doctor")
	if err == nil {
		t.Error("the exit code is 0")
	}
	for _, want := range []string{"ok     configuration  ", "ok     store          ", "ok     clock          the database's", "ok     clock          WeChat's",
		"wrong  wechat         " + rig.AppID, "note   proxies        ", "ok     file           ", "wrong  secret         service_key: ", " → write {env.NAME}"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, literal) || strings.Contains(out, rig.ServiceKey) || strings.Contains(out, rig.Secret) {
		t.Errorf("a secret is in\n%s", out)
	}
}

// A store does not open. The doctor names the cause and the remedy for this kind of fault, and
// gives no advice that would make it worse, such as to begin with an empty store.
func TestDoctorAboutUnusableStores(t *testing.T) {
	t.Parallel()
	key := func(path string) string { return path + ".key" }
	postgres, mysql := rig.NewDatabase(t, "postgres"), rig.NewDatabase(t, "mysql")
	with := func(address, parameter string) string {
		if strings.Contains(address, "?") {
			return address + "&" + parameter
		}
		return address + "?" + parameter
	}
	named := func(address, database string) string {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		u.Path = "/" + database
		return u.String()
	}
	const server = "store {env.WX_AUTH_STORE}\nencryption_key {env.WX_AUTH_KEY}"
	for _, c := range []struct {
		name, options, address string
		fault                  func(path string) error // of the SQLite file of a gateway that has run
		text, remedy           string
	}{
		{"no tables", server, postgres.URL, nil, "are missing", "it creates the tables, or reports why it cannot"},
		{"no tables, and none made", "store {env.WX_AUTH_STORE} {\nmigrate off\n}\nencryption_key {env.WX_AUTH_KEY}", mysql.URL, nil, "migrate is off", "do what the error says"},
		{"no such database", server, named(postgres.URL, "nowhere"), nil, "3D000", "create the database"},
		{"no such database of MySQL", server, named(mysql.URL, "nowhere"), nil, "1049", "create the database"},
		{"no such user", server, strings.Replace(mysql.URL, "root@", "nobody:wrong@", 1), nil, "Access denied", "correct the user and the password"},
		{"no TLS of MySQL", server, with(mysql.URL, "tls=true"), nil, "TLS", "tls=false"},
		{"no certificates", server, with(postgres.URL, "sslmode=verify-full&sslrootcert=/nowhere.pem"), nil, "/nowhere.pem", "put the file that the address names"},
		{"no certificates of MySQL", server, with(mysql.URL, "tls=true&tls_ca=/nowhere.pem"), nil, "/nowhere.pem", "put the file that the address names"},
		{"lost", "", "", os.Remove, "is missing", "restore the file and its key file"},
		{"the directory is lost", "", "", func(path string) error { return os.RemoveAll(filepath.Dir(path)) }, "does not exist", "the file is lost: restore it"},
		{"damaged", "", "", func(path string) error { return os.WriteFile(path, make([]byte, 8192), 0o600) }, "the database is damaged", "restore the file from a backup"},
		{"no key", "", "", func(path string) error { return os.Remove(key(path)) }, "is missing", "give the store the key"},
		{"another key", "", "", func(path string) error { return os.WriteFile(key(path), []byte(randomKey()), 0o600) }, "another key", "give the store the key"},
		{"no key in its file", "", "", func(path string) error { return os.WriteFile(key(path), []byte("?"), 0o600) }, "key file", "give the store the key"},
		{"a directory for a key", "", "", func(path string) error { return errors.Join(os.Remove(key(path)), os.Mkdir(key(path), 0o700)) }, "is a directory", "give the store the key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := rig.NewWeChat(t)
			caddyfile := doctorSite("{env.WX_SECRET}", "{$WX_API}", c.options, strict)
			o := rig.Operator{Caddy: rig.NewCaddy(t, append(w.Environ("127.0.0.1:1"), "WX_AUTH_STORE="+c.address, "WX_AUTH_KEY="+postgres.Key)...), Caddyfile: caddyfile}
			if c.fault != nil {
				o.Caddy.Start(caddyfile)
				o.Caddy.Stop()
				if err := c.fault(o.Caddy.StoreFile()); err != nil {
					t.Fatal(err)
				}
			}
			var said struct{ Checks []finding }
			if err := o.JSON(t, &said, "doctor"); err == nil {
				t.Error("the exit code is 0")
			}
			for _, f := range said.Checks {
				if f.Check == "store" && (f.State != "wrong" || !strings.Contains(f.Text, c.text) || !strings.Contains(f.Remedy, c.remedy)) {
					t.Errorf("%+v", f)
				}
			}
		})
	}
}
