package operation

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

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// files returns the files and directories below dir by their paths, each with a text
// that changes when the file does.
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

// kid returns the id of the key that signed the token.
func kid(t testing.TB, token string) string {
	t.Helper()
	id, _ := rig.JWTPart(t, token, 0)["kid"].(string)
	return id
}

// After a restart, sessions, users and keys are as before.
func TestRestartKeepsEverything(t *testing.T) {
	t.Parallel()
	r := rig.NewGateway(t)
	p, out := r.MustLogin(t, "13800138000"), r.MustLogin(t, "13800138000")
	r.Logout(out.Token, "", false).Want(t, http.StatusNoContent)
	r.Caddy.Stop()
	r.Caddy.Restart()
	r.WantEnded(t, out)
	next := r.WantSame(t, p, "13800138000")
	if kid(t, next.Token) != kid(t, p.Token) {
		t.Error("another key signs")
	}
}

// The process is killed right after an answer. Whatever it has answered must be in the
// store.
func TestKill9AfterALoginLosesNothing(t *testing.T) {
	t.Parallel()
	r := rig.NewGateway(t)
	// The very first login is the worst case, because the store and the key are new.
	p := r.MustLogin(t, "13800138000")
	r.Caddy.Kill9()
	r.Caddy.Restart()
	p = r.WantSame(t, p, "13800138000")

	// The latest changes are kept too: a refresh and a logout.
	newest := r.Refresh(p.RefreshToken).Pair(t)
	out := r.MustLogin(t, "13800138000")
	r.Logout(out.Token, "", false).Want(t, http.StatusNoContent)
	r.Caddy.Kill9()
	r.Caddy.Restart()
	r.WantEnded(t, out)
	if again := r.Refresh(p.RefreshToken).Pair(t); again.RefreshToken != newest.RefreshToken {
		t.Error("the refresh was lost")
	}
	r.WantAlive(t, newest)
}

// A reload must neither log users out nor forget that a session was revoked.
func TestReloadKeepsSessionsAndRevocations(t *testing.T) {
	t.Parallel()
	r := rig.NewGateway(t)
	p, out, other := r.MustLogin(t, "13800138000"), r.MustLogin(t, "13800138000"), r.MustLogin(t, "13900139000")
	r.Logout(out.Token, "", false).Want(t, http.StatusNoContent)

	// The settings change, while the store and the keys stay.
	r.MustReload(t, rig.GatewaySite("identity X-Caller id", "session {\ngrace 2m\n}", "public /open"))
	r.WantEnded(t, out)
	seen := r.Get("/", p.Token).Seen(t)
	seen.WantHeader(t, "X-Caller", p.UserInfo.ID)
	seen.WantHeader(t, "X-WX-USER-ID", "")
	r.Get("/open", "").Want(t, http.StatusOK)
	r.Logout("", other.RefreshToken, false).Want(t, http.StatusNoContent)

	r.MustReload(t, rig.GatewaySite())
	r.WantEnded(t, out)
	r.WantEnded(t, other)
	r.WantSame(t, p, "13800138000")
	r.Get("/open", "").WantProblem(t, http.StatusUnauthorized, "token_missing", nil)
	if n := r.WeChat.Count(wechattest.StableToken).Total; n != 1 {
		t.Errorf("the access token was fetched %d times", n)
	}
}

// A login that waits for WeChat must survive a reload.
func TestReloadDuringASlowLogin(t *testing.T) {
	t.Parallel()
	for _, call := range []wechattest.Call{wechattest.Code2Session, wechattest.PhoneNumber} {
		t.Run(string(call), func(t *testing.T) {
			r := rig.NewGatewayWith(t, rig.GatewaySiteWith("log\nheader X-Config old"))
			release := r.WeChat.Hold(t, call)
			codes := r.WeChat.Tap(t, "13800138000")
			slow := rig.InBackground(func() rig.Answer { return r.Login(codes.Code, codes.PhoneCode) })
			rig.Await(t, 10*time.Second, "WeChat is asked", func() bool { return r.WeChat.Count(call).Total == 1 })

			reload := rig.InBackground(func() error {
				return r.Caddy.Reload(rig.GatewaySiteWith("log\nheader X-Config new", "identity X-Caller id"))
			})
			fresh := r.Caddy.Client()
			fresh.HTTP.Transport.(*http.Transport).DisableKeepAlives = true
			rig.Await(t, 20*time.Second, "the new configuration serves", func() bool {
				return fresh.Get("/auth/wx/health", "").Header.Get("X-Config") == "new"
			})
			// The new configuration serves logins while the former one still finishes
			// its own. Until the former listener is closed, either may take a
			// connection.
			var a rig.Answer
			logins := 1
			for try := range 10 {
				other := r.WeChat.Tap(t, "13900139000")
				mark := fmt.Sprintf("X-Try: %s-%d", call, try)
				a = fresh.Do(http.MethodPost, "/auth/wx", map[string]string{"code": other.Code, "phoneCode": other.PhoneCode}, mark)
				if a.Err == nil {
					logins++
				} else if !r.Caddy.Unheard(fmt.Sprintf("%s-%d", call, try)) {
					break
				}
				if a.Header.Get("X-Config") == "new" {
					break
				}
			}
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
			a = rig.Within(t, 20*time.Second, "the slow login ends", slow)
			p := a.Pair(t)
			if got := a.Header.Get("X-Config"); got != "old" {
				t.Errorf("the slow login was the %s configuration's", got)
			}
			if err := rig.Within(t, rig.CommandTime, "the reload ends", reload); err != nil {
				t.Fatal(err)
			}
			for _, pair := range []rig.Pair{p, quick} {
				fresh.Get("/", pair.Token).Seen(t).WantHeader(t, "X-Caller", pair.UserInfo.ID)
				fresh.Refresh(pair.RefreshToken).Pair(t)
			}
			if n := r.WeChat.Count(wechattest.PhoneNumber).Total; n != logins {
				t.Errorf("getuserphonenumber was called %d times for %d logins", n, logins)
			}
		})
	}
}

// On SIGTERM a login that has begun must still be answered.
func TestSIGTERMLetsALoginFinish(t *testing.T) {
	t.Parallel()
	r := rig.NewGateway(t)
	release := r.WeChat.Hold(t, wechattest.PhoneNumber)
	codes := r.WeChat.Tap(t, "13800138000")
	slow := rig.InBackground(func() rig.Answer { return r.Login(codes.Code, codes.PhoneCode) })
	rig.Await(t, 10*time.Second, "WeChat is asked", func() bool { return r.WeChat.Count(wechattest.PhoneNumber).Total == 1 })

	if err := r.Caddy.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	r.Caddy.Log.Wait(t, 10*time.Second, "SIGTERM")
	fresh := r.Caddy.Client()
	rig.Await(t, 10*time.Second, "nothing new is taken", func() bool { return fresh.Get("/auth/wx/health", "").Err != nil })
	if !r.Caddy.Running() {
		t.Fatal("it ended before its login")
	}
	release()
	p := rig.Within(t, 20*time.Second, "the login ends", slow).Pair(t)
	rig.Within(t, rig.StopTime, "caddy ends", r.Caddy.Ended())
	if r.Caddy.ExitErr() != nil {
		t.Errorf("caddy ended with %v", r.Caddy.ExitErr())
	}
	r.Caddy.Restart()
	r.WantSame(t, p, "13800138000")
}

// The client hangs up. The login goes on, and its codes lead to its result, even after
// a restart.
func TestAbandonedLoginGoesOn(t *testing.T) {
	t.Parallel()
	r := rig.NewGatewayWith(t, rig.GatewaySiteWith("log"))
	release := r.WeChat.Hold(t, wechattest.PhoneNumber)
	codes := r.WeChat.Tap(t, "13800138000")
	conn, err := net.Dial("tcp", r.Caddy.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	body := fmt.Sprintf(`{"code":%q,"phoneCode":%q}`, codes.Code, codes.PhoneCode)
	fmt.Fprintf(conn, "POST /auth/wx HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", r.Caddy.Addr, len(body), body)
	rig.Await(t, 10*time.Second, "WeChat is asked", func() bool { return r.WeChat.Count(wechattest.PhoneNumber).Total == 1 })
	conn.Close()
	// Caddy has noticed it, and has finished the request.
	r.Caddy.Log.Wait(t, 10*time.Second, "http.log.access", `"uri":"/auth/wx"`)
	release()
	rig.Await(t, 10*time.Second, "WeChat answers", func() bool { return r.WeChat.Count(wechattest.PhoneNumber).Outcomes["ok"] == 1 })
	first := r.Login(codes.Code, codes.PhoneCode).Pair(t)
	r.Caddy.Kill9()
	r.Caddy.Restart()
	p := r.Login(codes.Code, codes.PhoneCode).Pair(t)
	if rig.SessionOf(t, p.Token) != rig.SessionOf(t, first.Token) {
		t.Error("the same codes opened another session")
	}
	for _, call := range []wechattest.Call{wechattest.Code2Session, wechattest.PhoneNumber} {
		if n := r.WeChat.Count(call).Total; n != 1 {
			t.Errorf("%s was called %d times", call, n)
		}
	}
	r.WantSame(t, p, "13800138000")
}

// `caddy validate` runs beside a working gateway. It must not create, lock or migrate
// anything.
func TestValidateTouchesNothing(t *testing.T) {
	t.Parallel()
	t.Run("in an empty home", func(t *testing.T) {
		wx := rig.NewWeChat(t)
		c := rig.NewCaddy(t, wx.Environ("127.0.0.1:1")...)
		for _, option := range []string{"", "store sqlite:{env.HOME}/elsewhere/users.db\nencryption_key " + randomKey()} {
			if err := c.Validate(rig.GatewaySite(option)); err != nil {
				t.Fatal(err)
			}
		}
		if got := slices.Sorted(maps.Keys(files(t, c.Home))); !slices.Equal(got, []string{"Caddyfile.validate"}) {
			t.Errorf("it made %q", got)
		}
		if n := wx.Asked(); n != 0 {
			t.Errorf("it asked WeChat %d times", n)
		}
		if err := c.Validate(rig.GatewaySite("public *")); err == nil {
			t.Error("it takes anything")
		}
	})
	t.Run("beside a running one", func(t *testing.T) {
		r := rig.NewGateway(t)
		p := r.MustLogin(t, "13800138000")
		// There are readers and a writer at work, so a lock would be noticed.
		release := r.WeChat.Hold(t, wechattest.PhoneNumber)
		codes := r.WeChat.Tap(t, "13900139000")
		slow := rig.InBackground(func() rig.Answer { return r.Login(codes.Code, codes.PhoneCode) })
		rig.Await(t, 10*time.Second, "the login's first step is kept", func() bool { return r.WeChat.Count(wechattest.PhoneNumber).Total == 2 })

		before, rows := files(t, r.Caddy.DataDir()), content(t, r.Caddy)
		for _, option := range []string{"", "token {\nalgorithm RS256\n}\nencryption_key " + randomKey()} {
			if err := r.Caddy.Validate(rig.GatewaySite(option)); err != nil {
				t.Fatal(err)
			}
		}
		after := files(t, r.Caddy.DataDir())
		for _, name := range slices.Compact(slices.Sorted(maps.Keys(union(before, after)))) {
			// The running process reads the feed of revocations and renews the lease of
			// its slow login every second. Both touch the write-ahead log.
			if strings.HasSuffix(name, "-shm") || strings.HasSuffix(name, "-wal") {
				continue
			}
			if before[name] != after[name] {
				t.Errorf("%s was %q and is %q", name, before[name], after[name])
			}
		}
		now := content(t, r.Caddy)
		for _, held := range []map[string]int{rows, now} {
			delete(held, "wx_auth_claimed_steps") // the running process leases its housekeeping
		}
		if !maps.Equal(now, rows) {
			t.Errorf("the store held %v and holds %v", rows, now)
		}
		release()
		rig.Within(t, 20*time.Second, "the slow login ends", slow).Pair(t)
		r.WantSame(t, p, "13800138000")
	})
}

// content returns the schema of the store and the number of rows of each table.
func content(t testing.TB, c *rig.Caddy) map[string]int {
	t.Helper()
	db := c.OpenStore(t)
	defer db.Close()
	var names []string
	rows, err := db.Query("SELECT name FROM sqlite_master WHERE type = 'table'")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	found := make(map[string]int)
	var version int
	if err := db.QueryRow("PRAGMA schema_version").Scan(&version); err != nil {
		t.Fatal(err)
	}
	found["schema"] = version
	for _, name := range names {
		var n int
		if err := db.QueryRow("SELECT COUNT(*) FROM " + name).Scan(&n); err != nil {
			t.Fatal(err)
		}
		found[name] = n
	}
	return found
}

func union(a, b map[string]string) map[string]string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

// An operator sets, changes and mistypes the encryption key. With a wrong key the gateway must
// not start, and nothing may be damaged.
func TestEncryptionKey(t *testing.T) {
	t.Parallel()
	// The keys come from the environment, because Caddy logs what is written in the
	// Caddyfile.
	key, newer, wrong := randomKey(), randomKey(), randomKey()
	with := func(mark, keys string) string {
		return rig.GatewaySiteWith("header X-Config "+mark, "encryption_key "+keys)
	}
	r := &rig.Gateway{WeChat: rig.NewWeChat(t), Upstream: rig.NewUpstream(t)}
	r.Caddy = rig.StartCaddy(t, with("first", "{env.KEY}"), append(r.WeChat.Environ(r.Upstream.Addr), "KEY="+key, "NEWER="+newer, "WRONG="+wrong)...)
	r.Client = r.Caddy.Client()
	p := r.MustLogin(t, "13800138000")
	if _, err := os.Stat(filepath.Join(r.Caddy.DataDir(), "wx_auth", "wx_auth.db.key")); !os.IsNotExist(err) {
		t.Errorf("a key was generated though one is configured: %v", err)
	}

	// Without a configured key the generated one would be used, which is a different
	// one.
	for _, mistaken := range []string{with("wrong", "{env.WRONG}"), with("wrong", "{env.NEWER}"), rig.GatewaySiteWith("header X-Config wrong")} {
		err := r.Caddy.Reload(mistaken)
		if err == nil {
			t.Fatal("a wrong key was taken")
		}
		if !strings.Contains(err.Error(), "the database was sealed with a") {
			t.Errorf("the error does not say why: %v", err)
		}
		a := r.Get("/", p.Token)
		a.Seen(t).WantHeader(t, "X-WX-PHONE", "+8613800138000")
		if got := a.Header.Get("X-Config"); got != "first" {
			t.Errorf("the configuration in force is %s", got)
		}
		if again := r.MustLogin(t, "13800138000"); again.UserInfo.ID != p.UserInfo.ID {
			t.Errorf("the user is %s, want %s", again.UserInfo.ID, p.UserInfo.ID)
		}
	}

	// The new key is put before the old one, so everything stays readable.
	r.MustReload(t, with("second", "{env.NEWER} {env.KEY}"))
	p = r.WantSame(t, p, "13800138000")
	late := r.MustLogin(t, "13900139000")
	r.Caddy.Stop()

	// A start with the wrong key also fails without damage.
	if err := r.Caddy.TryStart(with("wrong", "{env.WRONG}")); err == nil {
		t.Fatal("it started with a wrong key")
	}
	r.Caddy.Log.Wait(t, 20*time.Second, "sealed with another key than the encryption_key holds")
	r.Caddy.Start(with("third", "{env.NEWER} {env.KEY}"))
	r.WantSame(t, p, "13800138000")
	r.WantSame(t, late, "13900139000")
	for _, secret := range []string{key, newer, wrong} {
		if strings.Contains(r.Caddy.Log.String(), secret) {
			t.Errorf("an encryption key is in the log: %s", r.Caddy.Log.Lines(secret)[0])
		}
	}
}

// An operator changes the AppSecret in WeChat's console and reloads.
func TestChangedSecretWorksAtOnce(t *testing.T) {
	t.Parallel()
	const secret = "5ec2e70000000000000000000000d00d"
	r := rig.NewGatewayWith(t, strings.ReplaceAll(rig.GatewaySite(), "{env.WX_SECRET}", "{$WX_SECRET}"))
	p := r.MustLogin(t, "13800138000")
	if err := r.WeChat.AlterApp(rig.AppID, func(a *wechattest.App) { a.Secret = secret }); err != nil {
		t.Fatal(err)
	}
	codes := r.WeChat.Tap(t, "13800138000")
	r.Login(codes.Code, codes.PhoneCode).WantProblem(t, http.StatusServiceUnavailable, "misconfigured", []string{})
	r.Caddy.Setenv("WX_SECRET", secret)
	r.MustReload(t, strings.ReplaceAll(rig.GatewaySite(), "{env.WX_SECRET}", "{$WX_SECRET}"))
	if again := r.Login(codes.Code, codes.PhoneCode).Pair(t); again.UserInfo.ID != p.UserInfo.ID {
		t.Errorf("the user is %s, want %s", again.UserInfo.ID, p.UserInfo.ID)
	}
	r.WantAlive(t, p)
}

// Other users of the machine must not be able to read the store and its key file.
func TestStoreFilesAreForTheirOwnerOnly(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Log("there are no modes here")
		return
	}
	r := rig.NewGateway(t)
	r.MustLogin(t, "13800138000")
	dir := filepath.Join(r.Caddy.DataDir(), "wx_auth")
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
	r.Caddy.Stop()
	check("wx_auth.db", "wx_auth.db.key")
	// After a clean stop the write-ahead log has been merged into the database.
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
