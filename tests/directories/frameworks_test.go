package directories

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// requireFrameworks makes the tests fail, rather than be skipped, if a language or its
// packages are missing. .ci/run sets it.
const requireFrameworks = "WX_AUTH_TEST_REQUIRE_FRAMEWORKS"

// leaveOutFramework leaves a test out, or fails it where the frameworks are required.
func leaveOutFramework(t *testing.T, name, packages string, err error) {
	t.Helper()
	if os.Getenv(requireFrameworks) != "" {
		t.Fatalf("%s is set, and the pages' blocks for %s cannot be run: %v (%s)", requireFrameworks, name, err, packages)
	}
	t.Skipf("LEFT OUT: the pages' blocks for %s: %v (%s); %s=1 makes this a failure", name, err, packages, requireFrameworks)
}

// framework is one that the pages print blocks for. A program around them is in testdata.
type framework struct {
	name     string
	program  string // the file with the lines "BLOCK"
	users    string // what only the receiver's block of docs/users.md contains
	tokens   string // what only the verifier's block of docs/backends.md contains
	receiver string // the receiver's path
	prefix   string // what the framework puts before the paths of the other routes
	packages string // how to install what is missing
	// build makes the program ready in its directory. command runs it there, where it
	// listens at an address.
	build   func(t *testing.T, dir string) error
	command func(dir, address string) *exec.Cmd
}

var frameworks = []framework{
	{
		name: "FastAPI", program: "fastapi/program.py", receiver: "/wx-users",
		users: "from standardwebhooks.webhooks import Webhook", tokens: "jwt.PyJWKClient(",
		packages: "apt-get install python3-fastapi uvicorn python3-jwt python3-cryptography",
		build:    linkPython("fastapi, uvicorn, jwt, cryptography"),
		command: func(dir, address string) *exec.Cmd {
			return exec.Command(filepath.Join(dir, "python"), "-m", "uvicorn", "--host", "127.0.0.1", "--port", portOf(address), "--log-level", "warning", "program:app")
		},
	},
	{
		name: "Django", program: "django/program.py",
		packages: "apt-get install python3-django",
		build:    linkPython("django"),
		command:  func(dir, _ string) *exec.Cmd { return exec.Command(filepath.Join(dir, "python"), "program.py") },
	},
	{
		name: "Gin", program: "gin/main.go", receiver: "/wx-users",
		users: "standardwebhooks.NewWebhook(", tokens: "keyfunc.NewDefault(",
		packages: "go mod download",
		build: func(t *testing.T, dir string) error {
			if err := output(dir, "go", "mod", "download"); err != nil {
				return err
			}
			if err := output(dir, "go", "build", "-o", "program", "."); err != nil {
				t.Fatal(err)
			}
			return nil
		},
		command: func(dir, _ string) *exec.Cmd { return exec.Command(filepath.Join(dir, "program")) },
	},
	{
		name: "Spring", program: "spring/Program.java", receiver: "/wx-users",
		users:    "@PostMapping(\"/wx-users\")",
		packages: "apt-get install default-jdk-headless",
		build: func(t *testing.T, dir string) error {
			if _, err := exec.LookPath("javac"); err != nil {
				return err
			}
			if err := output(dir, "javac", "Program.java"); err != nil {
				t.Fatal(err)
			}
			return nil
		},
		command: func(dir, _ string) *exec.Cmd {
			return exec.Command("java", "-XX:TieredStopAtLevel=1", "-Dsun.net.httpserver.nodelay=true", "-cp", dir, "Program")
		},
	},
	{
		name: "Laravel", program: "laravel/routes/api.php", receiver: "/api/wx-users", prefix: "/api",
		users: "Route::post('/wx-users'", tokens: "JWK::parseKeySet(",
		packages: "apt-get install php-cli php-laravel-framework php-guzzlehttp-guzzle",
		build:    buildLaravel,
		command: func(_, address string) *exec.Cmd { // as in production: with a cached configuration
			return exec.Command("sh", "-c", "php cache.php && exec php -S "+address+" -t public public/index.php")
		},
	},
}

// buildLaravel makes the directories of an application, and writes the secret's place as the
// page says.
func buildLaravel(t *testing.T, dir string) error {
	if err := output(dir, "php", "-r", "require 'Illuminate/autoload.php'; require 'GuzzleHttp/autoload.php';"); err != nil {
		return err
	}
	for _, name := range []string{"bootstrap/cache", "storage/framework/cache/data", "storage/framework/views", "resources/views"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	secret := wordsIn(t, usersPage, "(?m)`('wx_users' => [^`]*)` .*`config/services.php`", "(?m)`config/services.php` .*\\s*`('wx_users' => [^`]*)`")
	write(t, filepath.Join(dir, "config/services.php"), "<?php return ["+secret+"];\n")
	return nil
}

// linkPython finds a Python that has these modules: Debian's may not be the first in PATH.
func linkPython(modules string) func(t *testing.T, dir string) error {
	return func(t *testing.T, dir string) (err error) {
		for _, python := range []string{"python3", "/usr/bin/python3"} {
			if err = output(dir, python, "-c", "import "+modules); err == nil {
				write(t, filepath.Join(dir, "python"), "#!/bin/sh\nexec "+python+" \"$@\"\n")
				return os.Chmod(filepath.Join(dir, "python"), 0o700)
			}
		}
		return err
	}
}

// programOf writes the program of a framework with the pages' blocks in it.
func (f framework) programOf(t *testing.T, keys string) (dir string) {
	t.Helper()
	top, _, _ := strings.Cut(f.program, "/")
	dir = rig.CopyTree(t, filepath.Join("testdata", top))
	file := filepath.Join(dir, strings.TrimPrefix(f.program, top+"/"))
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	program := string(text)
	for name, block := range map[string]string{"users": f.users, "tokens": f.tokens, "headers": ""} {
		if name != "headers" && block == "" {
			continue
		}
		switch name {
		case "users":
			block = inBoth(t, usersPage, block)
		case "tokens":
			block = rig.Replaced(t, inBoth(t, backendsPage, block), "https://api.example.com", keys)
		case "headers":
			block = headersOf(t, f.name)
		}
		mark := regexp.MustCompile(`(?m)^([ \t]*)(?:#|//) BLOCK ` + name + "\n")
		found := mark.FindStringSubmatchIndex(program)
		if found == nil {
			t.Fatalf("%s has no place for the %s", file, name)
		}
		indent := program[found[2]:found[3]]
		program = program[:found[0]] + indent + strings.ReplaceAll(strings.TrimRight(block, "\n"), "\n", "\n"+indent) + "\n" + program[found[1]:]
	}
	write(t, file, program)
	return dir
}

var comments = regexp.MustCompile(`(?m)\s+(//|#)\s.*$`)

// inBoth returns a page's block, whose code must be the same in the Chinese page.
func inBoth(t *testing.T, page, text string) string {
	t.Helper()
	block := rig.ReadmeBlock(t, page, text)
	chinese := rig.ReadmeBlock(t, inChinese(page), text)
	if comments.ReplaceAllString(block, "") != comments.ReplaceAllString(chinese, "") {
		t.Errorf("the block of %s has other code:\n%s", inChinese(page), chinese)
	}
	return block
}

// headersOf returns what the table of docs/backends.md has for a framework.
func headersOf(t *testing.T, name string) string {
	t.Helper()
	row := "(?m)^\\| " + name + " \\| `(.*)` \\|$"
	return strings.ReplaceAll(wordsIn(t, backendsPage, row, row), "`<br>`", "\n")
}

// wordsIn returns what a regular expression captures in a page. Another one must capture
// the same in the Chinese page.
func wordsIn(t *testing.T, page, english, chinese string) string {
	t.Helper()
	var found []string
	for page, pattern := range map[string]string{page: english, inChinese(page): chinese} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		words := regexp.MustCompile(pattern).FindSubmatch(text)
		if words == nil {
			t.Fatalf("%s has no %s", page, pattern)
		}
		found = append(found, string(words[1]))
	}
	if found[0] != found[1] {
		t.Errorf("%s and its twin differ:\n%s\n%s", page, found[0], found[1])
	}
	return found[0]
}

func inChinese(page string) string {
	return filepath.Join(filepath.Dir(page), "zh", filepath.Base(page))
}

// start runs the program in its directory. The secret may be empty.
func (f framework) start(t *testing.T, dir, address, secret string) *program {
	t.Helper()
	cmd := f.command(dir, address)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "PORT=" + portOf(address)}
	if f.name == "Laravel" {
		write(t, filepath.Join(dir, ".env"), "WX_USERS_SECRET="+secret+"\n")
	} else {
		cmd.Env = append(cmd.Env, "WX_USERS_SECRET="+secret)
	}
	return startProgram(t, cmd, address)
}

// A team copies what the pages print for its framework: the receiver of users, the line that
// reads the caller's headers, the verifier of tokens. Nothing else may be needed.
func TestPagesBlocksRunInTheirFrameworks(t *testing.T) {
	for _, f := range frameworks {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			address := rig.FreeAddress(t)
			g := &rig.Gateway{WeChat: rig.NewWeChat(t)}
			caddyfile := rig.GatewaySite()
			if f.users != "" {
				caddyfile = onThisMachine(t, rig.ReadmeBlock(t, usersPage, "users webhook http"), "localhost:3001/wx-users", address+f.receiver)
			}
			caddyfile = strings.Replace(caddyfile, "reverse_proxy", "rewrite /orders "+f.prefix+"/orders\nreverse_proxy", 1)
			var others map[string]string
			if f.tokens != "" {
				caddyfile, others = withOtherTokens(t, caddyfile)
			}
			g.Caddy = rig.StartCaddy(t, caddyfile, append(g.WeChat.Environ(address), "WX_USERS_SECRET="+secret)...)
			g.Client = g.Caddy.Client()
			dir := f.programOf(t, g.Caddy.URL())
			if err := f.build(t, dir); err != nil {
				leaveOutFramework(t, f.name, f.packages, err)
			}
			f.start(t, dir, address, secret).awaitListening(t)
			p := g.MustLogin(t, number)
			orders := g.Get("/orders", p.Token, "X-WX-USER-ID: 1", "X-WX-PHONE: 1")
			var order struct{ UserID, Phone string }
			err := json.Unmarshal([]byte(strings.Trim(orders.Body, "[]")), &order)
			if orders.Status != 200 || err != nil || order.UserID != p.UserInfo.ID || order.Phone != "+86"+number {
				t.Errorf("the API answered %d %s", orders.Status, orders.Body)
			}
			if f.users != "" {
				wantReceiver(t, g, p, rig.NewClient(t, "http://"+address), f.receiver)
			}
			if f.tokens != "" {
				wantVerifier(t, g, others, p, func(token string) rig.Answer {
					return rig.NewClient(t, "http://"+address).Get(f.prefix+"/verified", token)
				})
			}
			if f.users != "" {
				wantNoEmptySecret(t, f, dir)
			}
		})
	}
}

// wantReceiver logs in at the receiver's gateway, then asks the receiver what the gateway
// would ask, and what only a forger would.
func wantReceiver(t *testing.T, g *rig.Gateway, p rig.Pair, receiver *rig.Client, path string) {
	t.Helper()
	if p.UserInfo.ID != "7" || p.UserInfo.IsNew {
		t.Errorf("member 7 is %+v", *p.UserInfo)
	}
	p = g.Refresh(p.RefreshToken).Pair(t)
	newcomer := g.MustLogin(t, other)
	if again := g.Silent(g.WeChat.Open(t, other).Code).Pair(t); again.UserInfo.ID != newcomer.UserInfo.ID || again.UserInfo.ID == "7" {
		t.Errorf("users %s and %s", newcomer.UserInfo.ID, again.UserInfo.ID)
	}
	banned := g.WeChat.Tap(t, "13600136000")
	g.Login(banned.Code, banned.PhoneCode).WantProblem(t, http.StatusForbidden, "user_disabled", nil)
	g.ChangePhone(newcomer.Token, g.WeChat.NewNumber(t, rig.AppID, "+86"+other, "13500135000")).
		WantProblem(t, http.StatusForbidden, "phone_change_closed", nil)

	check := `{"type":"user.check","userId":"7"}`
	now := time.Now()
	for name, c := range map[string]struct {
		key, signed, sent string
		at                time.Time
		status            int
	}{
		"ours":         {webhookKey, check, check, now, 200},
		"another key":  {"fedcba9876543210fedcba9876543210", check, check, now, 401},
		"no key":       {"", check, check, now, 401},
		"too old":      {webhookKey, check, check, now.Add(-time.Hour), 401},
		"too early":    {webhookKey, check, check, now.Add(time.Hour), 401},
		"another body": {webhookKey, check, `{"type":"user.erase","userId":"7"}`, now, 401},
		"unknown type": {webhookKey, `{"type":"user.x","phone":"+8613100131000"}`, `{"type":"user.x","phone":"+8613100131000"}`, now, 400},
		"no such user": {webhookKey, `{"type":"user.check","userId":"99"}`, `{"type":"user.check","userId":"99"}`, now, 404},
	} {
		if a := receiver.Do(http.MethodPost, path, c.sent, signatureOf(c.key, c.signed, c.at)...); a.Status != c.status {
			t.Errorf("%s: %d %s, want %d", name, a.Status, a.Body, c.status)
		}
	}
	// Spring answers 400 where a header is missing.
	if a := receiver.Do(http.MethodPost, path, check); a.Status != 401 && a.Status != 400 {
		t.Errorf("unsigned: %d %s", a.Status, a.Body)
	}
	// All requests come from the gateway's address, so no limit per address may hold.
	for range 70 {
		receiver.Do(http.MethodPost, path, check, signatureOf(webhookKey, check, now)...).Want(t, 200)
	}
	erase := `{"type":"user.erase","userId":"7"}`
	if a := receiver.Do(http.MethodPost, path, erase, signatureOf(webhookKey, erase, now)...); a.Status/100 != 2 && a.Status != 404 {
		t.Errorf("an erasure: %d %s", a.Status, a.Body)
	}
	g.Refresh(p.RefreshToken).WantProblem(t, http.StatusUnauthorized, "session_ended", nil)
}

// wantNoEmptySecret runs the receiver without its secret, as after a misspelt variable. It
// must refuse to start, or to answer: everybody can sign with an empty key. The program that
// runs already may share its files, and is not asked any more.
func wantNoEmptySecret(t *testing.T, f framework, dir string) {
	t.Helper()
	address := rig.FreeAddress(t)
	if !f.start(t, dir, address, "").Listens(t, address) {
		return
	}
	check := `{"type":"user.check","userId":"7"}`
	a := rig.NewClient(t, "http://"+address).Do(http.MethodPost, f.receiver, check, signatureOf("", check, time.Now())...)
	if a.Err != nil || a.Status != 401 && a.Status != 500 {
		t.Errorf("without a secret: %d %s %v", a.Status, a.Body, a.Err)
	}
}

// withOtherTokens adds sites to a Caddyfile, which sign other tokens with the same key. It
// returns their addresses.
func withOtherTokens(t *testing.T, caddyfile string) (text string, sites map[string]string) {
	t.Helper()
	_, site, _ := strings.Cut(caddyfile, "http://{$ADDR} {")
	sites = make(map[string]string)
	for name, token := range map[string]string{"issuer": "issuer other\naudience wx-auth", "audience": "audience other", "expiry": "lifetime 1s\nleeway 0s"} {
		sites[name] = rig.FreeAddress(t)
		caddyfile += "\nhttp://" + sites[name] + " {" + rig.Replaced(t, site, "wechat {\n", "token {\n"+token+"\n}\nwechat {\n")
	}
	return caddyfile, sites
}

// wantVerifier fails the test unless our tokens pass, and no others.
func wantVerifier(t *testing.T, g *rig.Gateway, others map[string]string, p rig.Pair, verified func(token string) rig.Answer) {
	t.Helper()
	if a := verified(p.Token); a.Status != 200 || !strings.Contains(a.Body, `"`+p.UserInfo.ID+`"`) {
		t.Errorf("ours: %d %s", a.Status, a.Body)
	}
	head, rest, _ := strings.Cut(p.Token, ".")
	payload, signature, _ := strings.Cut(rest, ".")
	refused := map[string]string{
		"none":              "",
		"cut":               head + "." + payload,
		"another signature": head + "." + payload + "." + strings.Repeat("A", len(signature)),
		"alg none":          "eyJhbGciOiJub25lIn0." + payload + ".",
		"a refresh token":   p.RefreshToken,
	}
	for name, site := range others {
		codes := g.WeChat.Tap(t, number)
		refused[name] = rig.NewClient(t, "http://"+site).Login(codes.Code, codes.PhoneCode).Pair(t).Token
	}
	for name, token := range refused {
		if name == "expiry" {
			rig.Await(t, 20*time.Second, "the token expires", func() bool { return verified(token).Status == http.StatusUnauthorized })
		}
		if a := verified(token); a.Status != http.StatusUnauthorized {
			t.Errorf("%s: %d %s", name, a.Status, a.Body)
		}
	}
}
