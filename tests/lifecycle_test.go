package tests

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
)

// inBackground runs do and gives its outcome on the channel.
func inBackground[T any](do func() T) <-chan T {
	done := make(chan T, 1)
	go func() { done <- do() }()
	return done
}

// within is what comes on the channel; the test ends if nothing does.
func within[T any](t testing.TB, d time.Duration, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(d):
		t.Fatalf("not after %s: %s", d, what)
		panic("unreachable")
	}
}

// files are the files and directories under dir, by their paths there, each with
// what tells whether it was changed.
func files(t testing.TB, dir string) map[string]string {
	t.Helper()
	found := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		found[name] = fmt.Sprint(info.Mode(), info.Size(), info.ModTime())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func randomKey() string {
	var key [32]byte
	rand.Read(key[:]) // never fails
	return base64.StdEncoding.EncodeToString(key[:])
}

// wantSame fails the test if what was there before the gateway ended or changed is
// not there any more: the key, the session and the user. It returns the session's
// next pair.
func (r *rig) wantSame(t testing.TB, p Pair, number string) Pair {
	t.Helper()
	seen := r.Get("/", p.Token).Seen(t)
	seen.wantHeader(t, "X-WX-USER-ID", p.UserInfo.ID)
	seen.wantHeader(t, "X-WX-PHONE", "+86"+number)
	next := r.Refresh(p.RefreshToken).Pair(t)
	if sessionOf(t, next.Token) != sessionOf(t, p.Token) {
		t.Error("the session is another one")
	}
	silent := r.Silent(r.wx.Open(t, number).Code).Pair(t)
	if silent.UserInfo.ID != p.UserInfo.ID || silent.UserInfo.IsNew {
		t.Errorf("silently it is %+v, want user %s", *silent.UserInfo, p.UserInfo.ID)
	}
	if again := r.login(t, number); again.UserInfo.ID != p.UserInfo.ID || again.UserInfo.IsNew {
		t.Errorf("by phone it is %+v, want user %s", *again.UserInfo, p.UserInfo.ID)
	}
	next.UserInfo = p.UserInfo
	return next
}

// kid is the id of the key that signed the token.
func kid(t testing.TB, token string) string {
	t.Helper()
	id, _ := jwtPart(t, token, 0)["kid"].(string)
	return id
}

func TestRestartKeepsEverything(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, out := r.login(t, "13800138000"), r.login(t, "13800138000")
	r.Logout(out.Token, "", false).Want(t, http.StatusNoContent)
	r.caddy.Stop()
	r.caddy.Restart()
	r.wantEnded(t, out)
	next := r.wantSame(t, p, "13800138000")
	if kid(t, next.Token) != kid(t, p.Token) {
		t.Error("another key signs")
	}
}

func TestKill9AfterALoginLosesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	// The very first login: until then the store and the key are as new.
	p := r.login(t, "13800138000")
	r.caddy.Kill9()
	r.caddy.Restart()
	p = r.wantSame(t, p, "13800138000")

	// So is what came last: a refresh, a logout.
	newest := r.Refresh(p.RefreshToken).Pair(t)
	out := r.login(t, "13800138000")
	r.Logout(out.Token, "", false).Want(t, http.StatusNoContent)
	r.caddy.Kill9()
	r.caddy.Restart()
	r.wantEnded(t, out)
	if again := r.Refresh(p.RefreshToken).Pair(t); again.RefreshToken != newest.RefreshToken {
		t.Error("the refresh was lost")
	}
	r.wantAlive(t, newest)
}

func TestReloadKeepsSessionsAndRevocations(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, out, other := r.login(t, "13800138000"), r.login(t, "13800138000"), r.login(t, "13900139000")
	r.Logout(out.Token, "", false).Want(t, http.StatusNoContent)

	// Other settings, the same store and keys.
	r.reload(t, rigSite("identity X-Caller id", "session {\ngrace 2m\n}", "public /open"))
	r.wantEnded(t, out)
	seen := r.Get("/", p.Token).Seen(t)
	seen.wantHeader(t, "X-Caller", p.UserInfo.ID)
	seen.wantHeader(t, "X-WX-USER-ID", "")
	r.Get("/open", "").Want(t, http.StatusOK)
	r.Logout("", other.RefreshToken, false).Want(t, http.StatusNoContent)

	r.reload(t, rigSite())
	r.wantEnded(t, out)
	r.wantEnded(t, other)
	r.wantSame(t, p, "13800138000")
	r.Get("/open", "").WantProblem(t, http.StatusUnauthorized, "token_missing", nil)
	if n := r.wx.Count(wechattest.StableToken).Total; n != 1 {
		t.Errorf("the access token was fetched %d times", n)
	}
}

func TestReloadDuringASlowLogin(t *testing.T) {
	t.Parallel()
	for _, call := range []wechattest.Call{wechattest.Code2Session, wechattest.PhoneNumber} {
		t.Run(string(call), func(t *testing.T) {
			r := newRigWith(t, rigSiteWith("header X-Config old"))
			release := r.wx.hold(t, call)
			codes := r.wx.Tap(t, "13800138000")
			slow := inBackground(func() Answer { return r.Login(codes.Code, codes.PhoneCode) })
			await(t, 10*time.Second, "WeChat is asked", func() bool { return r.wx.Count(call).Total == 1 })

			reload := inBackground(func() error { return r.caddy.Reload(rigSiteWith("header X-Config new", "identity X-Caller id")) })
			fresh := r.caddy.Client()
			fresh.HTTP.Transport.(*http.Transport).DisableKeepAlives = true
			await(t, 20*time.Second, "the new configuration serves", func() bool {
				return fresh.Get("/auth/wx/health", "").Header.Get("X-Config") == "new"
			})
			// The new one takes logins while the old one still has its own.
			other := r.wx.Tap(t, "13900139000")
			a := fresh.Login(other.Code, other.PhoneCode)
			quick := a.Pair(t)
			if got := a.Header.Get("X-Config"); got != "new" {
				t.Errorf("the second login was the %s configuration's", got)
			}
			select {
			case a := <-slow:
				t.Fatalf("the slow login is over: %d %v %s", a.Status, a.Err, a.Body)
			default:
			}

			release()
			a = within(t, 20*time.Second, "the slow login ends", slow)
			p := a.Pair(t)
			if got := a.Header.Get("X-Config"); got != "old" {
				t.Errorf("the slow login was the %s configuration's", got)
			}
			if err := within(t, commandTime, "the reload ends", reload); err != nil {
				t.Fatal(err)
			}
			for _, pair := range []Pair{p, quick} {
				fresh.Get("/", pair.Token).Seen(t).wantHeader(t, "X-Caller", pair.UserInfo.ID)
				fresh.Refresh(pair.RefreshToken).Pair(t)
			}
			if n := r.wx.Count(wechattest.PhoneNumber).Total; n != 2 {
				t.Errorf("getuserphonenumber was called %d times", n)
			}
		})
	}
}

func TestSIGTERMLetsALoginFinish(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	release := r.wx.hold(t, wechattest.PhoneNumber)
	codes := r.wx.Tap(t, "13800138000")
	slow := inBackground(func() Answer { return r.Login(codes.Code, codes.PhoneCode) })
	await(t, 10*time.Second, "WeChat is asked", func() bool { return r.wx.Count(wechattest.PhoneNumber).Total == 1 })

	if err := r.caddy.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	r.caddy.Log.Wait(t, 10*time.Second, "SIGTERM")
	fresh := r.caddy.Client()
	await(t, 10*time.Second, "nothing new is taken", func() bool { return fresh.Get("/auth/wx/health", "").Err != nil })
	if !r.caddy.Running() {
		t.Fatal("it ended before its login")
	}
	release()
	p := within(t, 20*time.Second, "the login ends", slow).Pair(t)
	within(t, stopTime, "caddy ends", r.caddy.exited)
	if r.caddy.exitErr != nil {
		t.Errorf("caddy ended with %v", r.caddy.exitErr)
	}
	r.caddy.Restart()
	r.wantSame(t, p, "13800138000")
}

// The client hangs up: the login goes on, and its codes find what it came to, after
// a restart too.
func TestAbandonedLoginGoesOn(t *testing.T) {
	t.Parallel()
	r := newRigWith(t, rigSiteWith("log"))
	release := r.wx.hold(t, wechattest.PhoneNumber)
	codes := r.wx.Tap(t, "13800138000")
	conn, err := net.Dial("tcp", r.caddy.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	body := fmt.Sprintf(`{"code":%q,"phoneCode":%q}`, codes.Code, codes.PhoneCode)
	fmt.Fprintf(conn, "POST /auth/wx HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", r.caddy.Addr, len(body), body)
	await(t, 10*time.Second, "WeChat is asked", func() bool { return r.wx.Count(wechattest.PhoneNumber).Total == 1 })
	conn.Close()
	// Caddy has noticed, and is done with the request.
	r.caddy.Log.Wait(t, 10*time.Second, "http.log.access", `"uri":"/auth/wx"`)
	release()
	await(t, 10*time.Second, "WeChat answers", func() bool { return r.wx.Count(wechattest.PhoneNumber).Outcomes["ok"] == 1 })
	first := r.Login(codes.Code, codes.PhoneCode).Pair(t)
	r.caddy.Kill9()
	r.caddy.Restart()
	p := r.Login(codes.Code, codes.PhoneCode).Pair(t)
	if sessionOf(t, p.Token) != sessionOf(t, first.Token) {
		t.Error("the same codes opened another session")
	}
	for _, call := range []wechattest.Call{wechattest.Code2Session, wechattest.PhoneNumber} {
		if n := r.wx.Count(call).Total; n != 1 {
			t.Errorf("%s was called %d times", call, n)
		}
	}
	r.wantSame(t, p, "13800138000")
}

func TestValidateTouchesNothing(t *testing.T) {
	t.Parallel()
	t.Run("in an empty home", func(t *testing.T) {
		wx := NewWeChat(t)
		c := NewCaddy(t, wx.env("127.0.0.1:1")...)
		for _, option := range []string{"", "store sqlite:{env.HOME}/elsewhere/users.db\nencryption_key " + randomKey()} {
			if err := c.Validate(rigSite(option)); err != nil {
				t.Fatal(err)
			}
		}
		if got := slices.Sorted(maps.Keys(files(t, c.Home))); !slices.Equal(got, []string{"Caddyfile.validate"}) {
			t.Errorf("it made %q", got)
		}
		if n := wx.asked(); n != 0 {
			t.Errorf("it asked WeChat %d times", n)
		}
		if err := c.Validate(rigSite("public *")); err == nil {
			t.Error("it takes anything")
		}
	})
	t.Run("beside a running one", func(t *testing.T) {
		r := newRig(t)
		p := r.login(t, "13800138000")
		// With readers and a writer at work, a lock would show.
		release := r.wx.hold(t, wechattest.PhoneNumber)
		codes := r.wx.Tap(t, "13900139000")
		slow := inBackground(func() Answer { return r.Login(codes.Code, codes.PhoneCode) })
		await(t, 10*time.Second, "the login's first step is kept", func() bool { return r.wx.Count(wechattest.PhoneNumber).Total == 2 })

		before := files(t, r.caddy.DataDir())
		for _, option := range []string{"", "token {\nalgorithm RS256\n}\nencryption_key " + randomKey()} {
			if err := r.caddy.Validate(rigSite(option)); err != nil {
				t.Fatal(err)
			}
		}
		after := files(t, r.caddy.DataDir())
		for _, name := range slices.Compact(slices.Sorted(maps.Keys(union(before, after)))) {
			// The running one's revocation feed reads by way of the index of the
			// write-ahead log.
			if strings.HasSuffix(name, "-shm") {
				continue
			}
			if before[name] != after[name] {
				t.Errorf("%s was %q and is %q", name, before[name], after[name])
			}
		}
		release()
		within(t, 20*time.Second, "the slow login ends", slow).Pair(t)
		r.wantSame(t, p, "13800138000")
	})
}

func union(a, b map[string]string) map[string]string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

func TestEncryptionKey(t *testing.T) {
	t.Parallel()
	// By way of the environment: what is written into the Caddyfile is in Caddy's own log.
	key, newer, wrong := randomKey(), randomKey(), randomKey()
	with := func(mark, keys string) string { return rigSiteWith("header X-Config "+mark, "encryption_key "+keys) }
	r := &rig{wx: NewWeChat(t), up: NewUpstream(t)}
	r.caddy = StartCaddy(t, with("first", "{env.KEY}"), append(r.wx.env(r.up.Addr), "KEY="+key, "NEWER="+newer, "WRONG="+wrong)...)
	r.Client = r.caddy.Client()
	p := r.login(t, "13800138000")
	if _, err := os.Stat(filepath.Join(r.caddy.DataDir(), "wx_auth", "wx_auth.db.key")); !os.IsNotExist(err) {
		t.Errorf("a key was generated though one is configured: %v", err)
	}

	// Without any, it would be the generated one, which is another.
	for _, mistaken := range []string{with("wrong", "{env.WRONG}"), with("wrong", "{env.NEWER}"), rigSiteWith("header X-Config wrong")} {
		err := r.caddy.Reload(mistaken)
		if err == nil {
			t.Fatal("a wrong key was taken")
		}
		if !strings.Contains(err.Error(), "the database was sealed with a") {
			t.Errorf("the error does not say why: %v", err)
		}
		a := r.Get("/", p.Token)
		a.Seen(t).wantHeader(t, "X-WX-PHONE", "+8613800138000")
		if got := a.Header.Get("X-Config"); got != "first" {
			t.Errorf("the configuration in force is %s", got)
		}
		if again := r.login(t, "13800138000"); again.UserInfo.ID != p.UserInfo.ID {
			t.Errorf("the user is %s, want %s", again.UserInfo.ID, p.UserInfo.ID)
		}
	}

	// A new key before the old one: all that there is stays readable.
	r.reload(t, with("second", "{env.NEWER} {env.KEY}"))
	p = r.wantSame(t, p, "13800138000")
	late := r.login(t, "13900139000")
	r.caddy.Stop()

	// A start with the wrong key fails, too, and spoils nothing.
	if err := r.caddy.TryStart(with("wrong", "{env.WRONG}")); err == nil {
		t.Fatal("it started with a wrong key")
	}
	r.caddy.Log.Wait(t, 5*time.Second, "sealed with another key than the encryption_key holds")
	r.caddy.Start(with("third", "{env.NEWER} {env.KEY}"))
	r.wantSame(t, p, "13800138000")
	r.wantSame(t, late, "13900139000")
	for _, secret := range []string{key, newer, wrong} {
		if strings.Contains(r.caddy.Log.String(), secret) {
			t.Errorf("an encryption key is in the log: %s", r.caddy.Log.Lines(secret)[0])
		}
	}
}

func TestChangedSecretWorksAtOnce(t *testing.T) {
	t.Parallel()
	const secret = "5ec2e70000000000000000000000d00d"
	r := newRigWith(t, strings.ReplaceAll(rigSite(), "{env.WX_SECRET}", "{$WX_SECRET}"))
	p := r.login(t, "13800138000")
	if err := r.wx.AlterApp(AppID, func(a *wechattest.App) { a.Secret = secret }); err != nil {
		t.Fatal(err)
	}
	codes := r.wx.Tap(t, "13800138000")
	r.Login(codes.Code, codes.PhoneCode).WantProblem(t, http.StatusServiceUnavailable, "misconfigured", []string{})
	r.caddy.Setenv("WX_SECRET", secret)
	r.reload(t, strings.ReplaceAll(rigSite(), "{env.WX_SECRET}", "{$WX_SECRET}"))
	if again := r.Login(codes.Code, codes.PhoneCode).Pair(t); again.UserInfo.ID != p.UserInfo.ID {
		t.Errorf("the user is %s, want %s", again.UserInfo.ID, p.UserInfo.ID)
	}
	r.wantAlive(t, p)
}

func TestFilesAreTheirOwnersAlone(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Log("there are no modes here")
		return
	}
	r := newRig(t)
	r.login(t, "13800138000")
	dir := filepath.Join(r.caddy.DataDir(), "wx_auth")
	check := func(names ...string) {
		t.Helper()
		for _, name := range names {
			info, err := os.Stat(filepath.Join(dir, name))
			if err != nil {
				t.Error(err)
				continue
			}
			if mode := info.Mode(); mode != 0o600 || info.Size() == 0 {
				t.Errorf("%s: %v, %d bytes", name, mode, info.Size())
			}
		}
	}
	check("wx_auth.db", "wx_auth.db.key", "wx_auth.db-wal", "wx_auth.db-shm")
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory: %v, %v", info.Mode(), err)
	}
	r.caddy.Stop()
	check("wx_auth.db", "wx_auth.db.key")
	// Released cleanly: the write-ahead log is in the database.
	for name := range files(t, dir) {
		if name != "wx_auth.db" && name != "wx_auth.db.key" {
			t.Errorf("%s was left behind", name)
		}
	}
	raw, err := os.ReadFile(filepath.Join(dir, "wx_auth.db"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(raw), "13800138000") || strings.Contains(string(raw), "PRIVATE KEY") || strings.Contains(string(raw), `"d":`) {
		t.Error("the database holds a phone number or a private key in plain")
	}
}
