package operation

import (
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// storeFile returns the path of the default SQLite file of a Caddy.
func storeFile(c *rig.Caddy) string { return filepath.Join(c.DataDir(), "wx_auth", "wx_auth.db") }

// After a restart the database file is missing, while the files beside it show that it had
// users. If the file were silently created again, each of these users would become a new user
// with another id.
func TestLostStoreIsNotMadeAgain(t *testing.T) {
	t.Parallel()
	rename := func(path string) error { return os.Rename(path, path+".away") }
	for name, c := range map[string]struct {
		options string
		lose    func(path string) error
		says    string
	}{
		"the file is gone":  {"", os.Remove, "is missing"},
		"renamed":           {"", rename, "is missing"},
		"empty":             {"", func(path string) error { return os.Truncate(path, 0) }, "is empty"},
		"another database":  {"", func(path string) error { return errors.Join(os.Remove(path), os.WriteFile(path, nil, 0o600)) }, "is empty"},
		"a link to nowhere": {"", func(path string) error { return errors.Join(rename(path), os.Symlink("/nowhere/wx_auth.db", path)) }, "is missing"},
		"the log alone": {"encryption_key {env.KEY}", func(path string) error {
			return errors.Join(os.Remove(path), os.WriteFile(path+"-wal", []byte("frames"), 0o600))
		}, "-wal is still there"},
		"empty beside its log": {"encryption_key {env.KEY}", func(path string) error {
			return errors.Join(os.Truncate(path, 0), os.WriteFile(path+"-wal", []byte("frames"), 0o600))
		}, "is empty"},
		"a link to nowhere without a key": {"encryption_key {env.KEY}", func(path string) error {
			return errors.Join(os.Remove(path), os.Symlink("/nowhere/wx_auth.db", path))
		}, "symbolic link"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &rig.Gateway{WeChat: rig.NewWeChat(t), Upstream: rig.NewUpstream(t)}
			r.Caddy = rig.StartCaddy(t, rig.GatewaySite(c.options), append(r.WeChat.Environ(r.Upstream.Addr), "KEY="+randomKey())...)
			r.Client = r.Caddy.Client()
			r.MustLogin(t, "13800138000")
			r.Caddy.Stop()
			path := storeFile(r.Caddy)
			if err := c.lose(path); err != nil {
				t.Fatal(err)
			}
			if err := r.Caddy.TryStart(rig.GatewaySite(c.options)); err == nil {
				t.Fatal("it started with an empty store")
			}
			r.Caddy.Log.Wait(t, 20*time.Second, "the database is lost", c.says, "on purpose")
			if info, err := os.Stat(path); err == nil && info.Size() > 0 {
				t.Errorf("a database was made: %d bytes", info.Size())
			}
			// The operator starts again with an empty store on purpose.
			for _, left := range []string{path, path + ".key", path + "-wal", path + "-shm"} {
				if err := os.Remove(left); err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Fatal(err)
				}
			}
			r.Caddy.Start(rig.GatewaySite(c.options))
			if p := r.MustLogin(t, "13800138000"); !p.UserInfo.IsNew {
				t.Error("the user was known in an empty store")
			}
		})
	}
}

// dump copies a database to another file, as an operator does with sqlite3.
func dump(path, to string) error {
	db, err := sql.Open("sqlite", path)
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.Exec("VACUUM INTO ?", to)
	return err
}

// damage overwrites a part of each page of the database but the first one.
func damage(path string) error {
	db, err := sql.Open("sqlite", path)
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.Exec("PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	for at := int64(4096); err == nil && at < info.Size(); at += 4096 {
		_, err = f.WriteAt(make([]byte, 512), at)
	}
	return err
}

// While Caddy runs, the store's file is deleted, replaced or damaged. One line says so, with a
// remedy that leads to the right heading. It stays an outage, even if a replaced file takes
// writes, until the right file is back.
func TestStoreIsLostWhileItRuns(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		lose          func(path string) error
		login         int // the status of logins meanwhile
		cause, remedy string
		back          func(path string) error // nil: only a restart helps
	}{
		"deleted": {func(path string) error {
			return errors.Join(os.Remove(path), os.Remove(path+"-wal"), os.Remove(path+"-shm"))
		}, 503, "the file was deleted", "put the same file back", nil},
		"the directory is deleted": {func(path string) error { return os.RemoveAll(filepath.Dir(path)) }, 503, "the file was deleted", "put the same file back", nil},
		"its log is deleted":       {func(path string) error { return os.Remove(path + "-wal") }, 503, "its log was deleted", "restart Caddy", nil},
		"moved away": {func(path string) error { return os.Rename(filepath.Dir(path), filepath.Dir(path)+".away") }, 503, "the file was deleted", "put the same file back",
			func(path string) error { return os.Rename(filepath.Dir(path)+".away", filepath.Dir(path)) }},
		"replaced": {func(path string) error {
			return errors.Join(dump(path, path+".new"), os.Rename(path, path+".old"), os.Rename(path+".new", path))
		}, 200, "the file was replaced", "put the same file back", func(path string) error { return os.Rename(path+".old", path) }},
		"damaged": {damage, 503, "the database is damaged", "stop Caddy, restore the file from a backup", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := rig.NewGateway(t)
			path := storeFile(r.Caddy)
			for i := range 20 {
				r.MustLogin(t, fmt.Sprintf("138001380%02d", i))
			}
			if err := c.lose(path); err != nil {
				t.Fatal(err)
			}
			codes := r.WeChat.Tap(t, "13800138055")
			if a := r.Login(codes.Code, codes.PhoneCode); a.Status != c.login {
				t.Errorf("a login: %d %s", a.Status, a.Body)
			}
			rig.Await(t, 10*time.Second, "it is not healthy", func() bool { return r.Get(works, "").Status == 503 })
			r.Caddy.Log.Wait(t, rig.CommandTime, `"level":"error"`, "the store: failing since", c.cause, `"remedy":"`+c.remedy, "#the-store-is-lost")
			r.Silent(r.WeChat.Open(t, "13800138000").Code)
			time.Sleep(2500 * time.Millisecond) // longer than a success must last to end an outage
			if again := r.Caddy.Log.Lines("the store: back again"); len(again) > 0 {
				t.Errorf("works again: %s", again)
			}
			if n := len(r.Caddy.Log.Lines("the store: failing since")); n != 1 {
				t.Errorf("%d lines of one outage", n)
			}
			for _, line := range r.Caddy.Log.Lines("login failed", `"remedy":`) {
				if !strings.Contains(line, c.remedy) {
					t.Errorf("another remedy: %s", line)
				}
			}
			if c.back == nil {
				return
			}
			if err := c.back(path); err != nil {
				t.Fatal(err)
			}
			rig.Await(t, 10*time.Second, "it is healthy", func() bool { return r.Get(works, "").Status == 200 })
			r.Caddy.Log.Wait(t, 10*time.Second, "the store: back again")
		})
	}
}

// The log of a running store is deleted. The remedy is a restart: what is in the log comes into
// the file when Caddy stops.
func TestDeletedLogIsNotLost(t *testing.T) {
	t.Parallel()
	r := rig.NewGateway(t)
	p := r.MustLogin(t, "13800138000")
	if err := os.Remove(storeFile(r.Caddy) + "-wal"); err != nil {
		t.Fatal(err)
	}
	rig.Await(t, 10*time.Second, "it is not healthy", func() bool { return r.Get(works, "").Status == 503 })
	r.Caddy.Log.Wait(t, rig.CommandTime, "the store: failing since", `"remedy":"restart Caddy`)
	r.Caddy.Stop()
	r.Caddy.Restart()
	r.WantSame(t, p, "13800138000")
}

// A mistyped path, or another HOME, leads to an empty store. The log names the file,
// says that it was created, and how many users it has.
func TestStoreOpenedIsLogged(t *testing.T) {
	t.Parallel()
	r := rig.NewGateway(t)
	r.Caddy.Log.Wait(t, 20*time.Second, `"msg":"store opened"`, storeFile(r.Caddy), `"created":true`, `"users":0`, `"openids":0`, `"directory":"store"`, `"schema":`)
	r.MustLogin(t, "13800138000")
	r.MustReload(t, rig.GatewaySiteWith("header X-Config new"))
	if n := len(r.Caddy.Log.Lines(`"msg":"store opened"`)); n != 1 {
		t.Errorf("%d lines of one store that stays open", n)
	}
	r.Caddy.Stop()
	r.Caddy.Restart()
	r.Caddy.Log.Wait(t, 20*time.Second, `"msg":"store opened"`, `"created":false`, `"users":1`, `"openids":1`)
}

// A store's path may be a symbolic link; the store is the file that it points to.
func TestStoreBehindALink(t *testing.T) {
	t.Parallel()
	r := &rig.Gateway{WeChat: rig.NewWeChat(t), Upstream: rig.NewUpstream(t)}
	r.Caddy = rig.NewCaddy(t, r.WeChat.Environ(r.Upstream.Addr)...)
	r.Client = r.Caddy.Client()
	volume := filepath.Join(r.Caddy.Home, "volume")
	link := filepath.Join(r.Caddy.Home, "wx.db")
	if err := errors.Join(os.Mkdir(volume, 0o700), os.WriteFile(filepath.Join(volume, "wx.db"), nil, 0o600), os.Symlink("volume/wx.db", link)); err != nil {
		t.Fatal(err)
	}
	r.Caddy.Start(rig.GatewaySite("store sqlite:" + link))
	p := r.MustLogin(t, "13800138000")
	r.Get("/auth/wx/health", "").Want(t, 200)
	r.Caddy.Kill9()
	r.Caddy.Restart()
	r.WantSame(t, p, "13800138000")
}

// Sites that share the default store accept each other's users. Each load logs that
// once.
func TestSitesThatShareAStoreByChance(t *testing.T) {
	t.Parallel()
	site := func(address, lines string) string {
		return "http://" + address + " {\nwx_auth {env.WX_APPID} {env.WX_SECRET} {\nwechat {\napi {$WX_API}\n}\n" + lines + "\n}\n}\n"
	}
	other := rig.FreeAddress(t)
	both := func(one, two string) string {
		return "{\ndefault_bind 127.0.0.1\n}\n" + site("{$ADDR}", one) + site(other, two)
	}
	const warning = "several sites share one store"
	r := &rig.Gateway{WeChat: rig.NewWeChat(t), Upstream: rig.NewUpstream(t)}
	r.Caddy = rig.StartCaddy(t, site("{$ADDR}", ""), r.WeChat.Environ(r.Upstream.Addr)...)
	meant := "store sqlite:{$HOME}/meant.db\n"
	for _, c := range []struct {
		one, two string
		says     []string // a part of the log line; empty: no line
	}{
		{"", "", []string{"no line `store`"}},
		{meant, meant, nil},
		{"", meant, nil},
		{meant + "register off", meant, []string{"`register`"}},
		{meant + "countries 86 852", meant + "countries 86", []string{"`countries`"}},
		{meant + "countries 86 852", meant + "countries 852 86", nil},
		{"register off", "", []string{"no line `store`", "`register`"}},
	} {
		before := len(r.Caddy.Log.Lines(warning))
		r.MustReload(t, both(c.one, c.two))
		lines := r.Caddy.Log.Lines(warning)[before:]
		if want := min(len(c.says), 1); len(lines) != want {
			t.Fatalf("%q and %q: %d lines, want %d: %s", c.one, c.two, len(lines), want, lines)
		}
		for _, says := range append(c.says, `"remedy":`) {
			if len(lines) > 0 && !strings.Contains(lines[0], says) {
				t.Errorf("%q and %q: no %s in %s", c.one, c.two, says, lines[0])
			}
		}
	}
}
