package caddymodule

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/standard"
)

// provisionTogether loads several directives in one configuration, without
// starting it.
func provisionTogether(t *testing.T, directives ...string) ([]*Handler, error) {
	t.Helper()
	var routes []string
	for _, d := range directives {
		raw, err := json.Marshal(mustParse(t, d))
		if err != nil {
			t.Fatal(err)
		}
		routes = append(routes, `{"handle": [{"handler": "wx_auth", `+string(raw[1:])+`]}`)
	}
	var cfg caddy.Config
	if err := json.Unmarshal([]byte(`{"admin": {"disabled": true}, "apps": {"http": {"servers": {"one": {
		"listen": ["127.0.0.1:0"], "routes": [`+strings.Join(routes, ",")+`]}}}}}`), &cfg); err != nil {
		t.Fatal(err)
	}
	ctx, err := caddy.ProvisionContext(&cfg)
	if err != nil {
		return nil, err
	}
	app, err := ctx.App("wx_auth")
	if err != nil {
		t.Fatal(err)
	}
	var handlers []*Handler
	for _, s := range app.(*Background).sites {
		h := &Handler{site: s}
		t.Cleanup(func() { _ = h.Cleanup() })
		handlers = append(handlers, h)
	}
	return handlers, nil
}

func directive(store string, more ...string) string {
	return "wx_auth " + servedApp + " " + servedSecret + " {\n store " + store + "\n" + strings.Join(more, "\n") + "\n}"
}

const keyA, keyB = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "IAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="

// If two sites of one store had different keys, each would write what the other cannot read.
func TestDirectivesOfOneStoreMustAgreeOnIt(t *testing.T) {
	path := "sqlite:" + filepath.Join(t.TempDir(), "wx.db")
	for name, c := range map[string]struct{ one, other, says string }{
		"the same":   {directive(path, "encryption_key "+keyA), directive(path, "encryption_key "+keyA), ""},
		"a WeChat":   {directive(path), directive(path, "wechat {\n api http://127.0.0.1:9\n}"), "if 127.0.0.1:9 is a proxy to WeChat itself, write `realm weixin.qq.com`"},
		"two others": {directive(path, "wechat {\n api http://127.0.0.1:8\n}"), directive(path, "wechat {\n api http://127.0.0.1:9\n}"), "such as `realm staging`"},
		"migrate":    {directive(path), directive(path + " {\n migrate off\n}"), "store migrate: another wx_auth"},
		"keys":       {directive(path, "encryption_key "+keyA), directive(path, "encryption_key "+keyB), "encryption_key: another wx_auth"},
		"old keys":   {directive(path, "encryption_key "+keyA), directive(path, "encryption_key "+keyA+" "+keyB), "encryption_key: another wx_auth"},
		"no key":     {directive(path, "encryption_key "+keyA), directive(path), "encryption_key: another wx_auth"},
		"other prefixes": {directive(path, "encryption_key "+keyA),
			directive(path+" {\n migrate off\n table_prefix other_\n}", "encryption_key "+keyB), ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := provisionTogether(t, c.one, c.other)
			switch {
			case c.says == "" && err != nil:
				t.Error(err)
			case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)):
				t.Errorf("%v, want %q", err, c.says)
			}
		})
	}
}

// A configuration that turns migrate off, loaded over one that had it on, must keep the known
// revocations and limits.
func TestMigrateOffKeepsTheState(t *testing.T) {
	path := "sqlite:" + filepath.Join(t.TempDir(), "wx.db")
	before, err := provisionTogether(t, directive(path))
	if err != nil {
		t.Fatal(err)
	}
	after, err := provisionTogether(t, directive(path+" {\n migrate off\n}"))
	if err != nil {
		t.Fatal(err)
	}
	if before[0].site.state != after[0].site.state {
		t.Error("two states for one store")
	}
}

// Caddy shows the exported fields of a running configuration in /config/, in
// autosave.json and in traces.
func TestCaddyShowsNoSecret(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	key := base64.StdEncoding.EncodeToString([]byte("an encryption key of 32 bytes!!!"))
	secrets := map[string]string{
		"WXT_SECRET": "a55ec2e7a55ec2e7a55ec2e7a55ec2e7", "WXT_KEY": key, "WXT_HS": "an-hs256-secret-of-32-bytes-or-more", "WXT_TOKENS": "k3y-of-the-token-service",
	}
	for name, value := range secrets {
		t.Setenv(name, value)
	}
	raw := mustParse(t, `wx_auth wx0123456789abcdef {env.WXT_SECRET} {
		encryption_key {env.WXT_KEY}
		token {
			algorithm HS256
			key {env.WXT_HS}
		}
		wechat {
			access_token external https://tokens.example.com/?key={env.WXT_TOKENS}
		}
	}`)
	before, err := json.Marshal(raw)
	if err != nil {
		t.Fatal(err)
	}
	ctx, err := caddy.ProvisionContext(&caddy.Config{})
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := ctx.LoadModuleByID("http.handlers.wx_auth", before)
	if err != nil {
		t.Fatal(err)
	}
	defer loaded.(*Handler).Cleanup()
	after, err := json.Marshal(loaded)
	if err != nil {
		t.Fatal(err)
	}
	if string(after) != string(before) {
		t.Errorf("provisioning changed the configuration:\n%s\n%s", before, after)
	}
	for name, value := range secrets {
		if !strings.Contains(string(after), "{env."+name+"}") || strings.Contains(string(after), value) {
			t.Errorf("%s is shown, or its placeholder is gone: %s", name, after)
		}
	}
	// A careless log line would print the apps like this.
	set, err := loaded.(*Handler).settings()
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprintf("%+v %#v %s", set.Apps, set.Apps, set.EncryptionKeys); strings.Contains(text, "appsecret") || strings.Contains(text, key) {
		t.Errorf("secrets print: %s", text)
	}
}

var update = flag.Bool("update", false, "write what comes out into testdata/adapt")

// separator stands between a Caddyfile and the expected JSON or error.
const separator = "----------\n"

// TestAdapt compares each Caddyfile in testdata/adapt with the JSON, or the error, that
// follows it in the file. The name of a file with an error begins with "refused_".
func TestAdapt(t *testing.T) {
	files, err := filepath.Glob("testdata/adapt/*.caddyfiletest")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test files: %v", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".caddyfiletest")
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			input, want, _ := strings.Cut(string(data), separator)
			got, refused := adapt(t, input)
			if refused != strings.HasPrefix(name, "refused_") {
				t.Fatalf("refused: %v; this came out:\n%s", refused, got)
			}
			if refused && !strings.Contains(got, "at Caddyfile:") {
				t.Errorf("the error names no line: %s", got)
			}
			if *update {
				if err := os.WriteFile(file, []byte(input+separator+got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

func adapt(t *testing.T, input string) (out string, refused bool) {
	t.Helper()
	result, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(input), nil)
	if err != nil {
		return err.Error() + "\n", true
	}
	for _, w := range warnings {
		t.Errorf("warning: %s", w)
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, result, "", "\t"); err != nil {
		t.Fatal(err)
	}
	return pretty.String() + "\n", false
}

// Users copy the Caddyfiles of the tests as examples, so these are formatted as by `caddy
// fmt`.
func TestAdaptFilesAreFormatted(t *testing.T) {
	files, _ := filepath.Glob("testdata/adapt/*.caddyfiletest")
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		input, _, _ := strings.Cut(string(data), separator)
		if string(caddyfile.Format([]byte(input))) != input {
			t.Errorf("%s is not formatted", file)
		}
	}
}

// The error for an unknown subdirective lists the known ones. The list must have every
// subdirective.
func TestUnknownSubdirectiveNamesTheKnownOnes(t *testing.T) {
	got, _ := adapt(t, ":8080 {\n\twx_auth a b {\n\t\tfoo\n\t}\n}\n")
	for _, s := range new(Handler).syntax() {
		if !strings.Contains(got, s.name) {
			t.Errorf("%s is missing in: %s", s.name, got)
		}
	}
}

// Another plugin may parse the directive without a matcher.
func TestHandlerUnmarshalsCaddyfileTokens(t *testing.T) {
	var h Handler
	d := caddyfile.NewTestDispenser("wx_auth {env.A} {env.B} {\n public /health\n}")
	if err := h.UnmarshalCaddyfile(d); err != nil {
		t.Fatal(err)
	}
	if len(h.Apps) != 1 || h.Apps[0].ID != "{env.A}" || h.Apps[0].Secret != "{env.B}" || len(h.Public) != 1 {
		t.Errorf("got %+v", h)
	}
}

// An operator copies the defaults from the reference, or trusts them. The block that writes
// them out must mean what no block means.
func TestDefaultsOfTheReference(t *testing.T) {
	for _, page := range []string{"../docs/caddyfile.md", "../docs/zh/caddyfile.md"} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		_, block, found := strings.Cut(string(text), "```caddyfile\nwx_auth {env.WX_APPID} {env.WX_SECRET} {\n\tendpoints /auth/wx\n")
		block, _, _ = strings.Cut(block, "```")
		if !found {
			t.Fatalf("%s has no block of defaults", page)
		}
		const app = "wx_auth {env.WX_APPID} {env.WX_SECRET}"
		written, err := resolve(mustParse(t, app+" {\n\tendpoints /auth/wx\n"+block), inCaddyfile)
		if err != nil {
			t.Fatal(err)
		}
		bare, err := resolve(mustParse(t, app), inCaddyfile)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(written, bare) {
			t.Errorf("%s has %+v\nthe defaults are %+v", page, written, bare)
		}
	}
}

// An appid and an AppSecret that cannot be WeChat's are refused when the configuration is loaded,
// and not by WeChat at the first login. Exchanged values are not repeated. A simulator has others.
func TestOwnAppsHaveWeChatsForms(t *testing.T) {
	const appid, secret = "wx0123456789abcdef", "0123456789abcdef0123456789abcdef"
	for _, c := range []struct{ id, secret, wechat, want string }{
		{appid, secret, "", ""},
		{"gh_0123456789ab", secret, "", "is not an appid"},
		{"wx0123", secret, "", "is not an appid"},
		{appid, "abc", "", "is not an AppSecret"},
		{appid, `"` + secret + `"`, "", "is not an AppSecret"},
		{`"` + secret + `"`, `"` + appid + `"`, "", "is not an appid"},
		{appid, "abc", "api https://api2.weixin.qq.com", "is not an AppSecret"},
		{"gh_0123456789ab", "abc", "api http://127.0.0.1:9000", ""},
		{"WX0123456789abcdef", secret, "}\napp wx1123456789abcdef " + secret + " {", "app 1 of 2: that is not an appid"},
		{appid, secret, "}\napp wx1123456789abcdef abc {", "app 2 of 2: that is not an AppSecret"},
	} {
		t.Setenv("WXT_ID", c.id)
		t.Setenv("WXT_SECRET", c.secret)
		t.Setenv("XDG_DATA_HOME", t.TempDir())
		raw, err := json.Marshal(mustParse(t, "wx_auth {env.WXT_ID} {env.WXT_SECRET} {\nwechat {\n"+c.wechat+"\n}\n}"))
		if err != nil {
			t.Fatal(err)
		}
		ctx, err := caddy.ProvisionContext(&caddy.Config{})
		if err != nil {
			t.Fatal(err)
		}
		loaded, err := ctx.LoadModuleByID("http.handlers.wx_auth", raw)
		if err == nil {
			defer loaded.(*Handler).Cleanup()
		}
		switch text := fmt.Sprint(err); {
		case (err == nil) != (c.want == ""), !strings.Contains(text, c.want):
			t.Errorf("%+v: %v, want %q", c, err, c.want)
		case strings.Contains(text, secret):
			t.Errorf("the error has the secret: %v", err)
		}
	}
}
