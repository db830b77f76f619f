package operation

import (
	"errors"
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
