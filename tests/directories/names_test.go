package directories

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// twoSites are two sites of one Caddy for the same mini program. Each has its own
// further lines.
func twoSites(shop, staff string) string {
	site := func(address, lines string) string {
		return "http://" + address + " {\nwx_auth {env.WX_APPID} {env.WX_SECRET} {\nwechat {\napi {$WX_API}\n}\n" + lines + "\n}\nreverse_proxy {$UPSTREAM}\n}\n"
	}
	return "{\ndebug\ndefault_bind 127.0.0.1\n}\n" + site("{$ADDR}", shop) + site("{$STAFF}", staff)
}

// prepareSites prepares a Caddy for twoSites, with the backends of the two sites in
// SHOP and CREW, and with further variables.
func prepareSites(t *testing.T, env ...string) (*rig.Gateway, *rig.Client) {
	t.Helper()
	g := &rig.Gateway{WeChat: rig.NewWeChat(t), Upstream: rig.NewUpstream(t)}
	shop, crew, staff := newBackend(t), newBackend(t), rig.FreeAddress(t)
	g.Caddy = rig.NewCaddy(t, append(append(g.WeChat.Environ(g.Upstream.Addr), env...), "SHOP="+shop.url, "CREW="+crew.url, "HOOK_SECRET="+secret, "STAFF="+staff)...)
	g.Client = g.Caddy.Client()
	return g, rig.NewClient(t, "http://"+staff)
}

const shopHook, crewHook = "users webhook {env.SHOP} {\nsecret {env.HOOK_SECRET}\n", "users webhook {env.CREW} {\nsecret {env.HOOK_SECRET}\n"

// A customer is user 1 of the shop, and sends wx.login's code to the staff's site, where user
// 1 is somebody else. Two sites with one store and different directories are refused.
func TestCustomerIsNoMemberOfStaff(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		shop, staff string
		says        []string // a part of the error; empty: it is accepted
	}{
		"two backends": {shopHook + "}", crewHook + "}", []string{"webhook:http://127.0.0.1:", "`realm ", "table_prefix"}},
		"another query of one backend": {"users webhook {env.SHOP}?tenant=1 {\nsecret {env.HOOK_SECRET}\n}",
			"users webhook {env.SHOP}?tenant=2 {\nsecret {env.HOOK_SECRET}\n}", []string{"`realm ", "table_prefix"}},
		"a backend beside the store":   {"", crewHook + "}", []string{`"store"`, "realm store", "table_prefix"}},
		"two realms":                   {shopHook + "realm shop\n}", crewHook + "realm crew\n}", []string{`"shop"`, `"crew"`}},
		"one realm alone":              {shopHook + "realm shop\n}", shopHook + "}", []string{`"shop"`}},
		"one realm":                    {shopHook + "realm people\n}", crewHook + "realm people\n}", nil},
		"one backend":                  {shopHook + "}", shopHook + "}", nil},
		"the store's ids by a webhook": {"", crewHook + "realm store\n}", nil},
		"a store of its own":           {shopHook + "}", crewHook + "}\nstore sqlite:{env.HOME}/crew.db", nil},
		"a prefix of its own":          {shopHook + "}\nstore sqlite:{env.HOME}/one.db", crewHook + "}\nstore sqlite:{env.HOME}/one.db {\ntable_prefix crew_\n}", nil},
	} {
		t.Run(name, func(t *testing.T) {
			g, staff := prepareSites(t)
			err := g.Caddy.TryStart(twoSites(c.shop, c.staff))
			if len(c.says) == 0 {
				if err != nil {
					t.Fatalf("refused: %v", err)
				}
				g.MustLogin(t, number)
				codes := g.WeChat.Tap(t, other)
				staff.Login(codes.Code, codes.PhoneCode).Pair(t)
				return
			}
			if err == nil {
				t.Fatal("it started")
			}
			for _, says := range c.says {
				g.Caddy.Log.Wait(t, 20*time.Second, `"level":"error"`, "two sites share the store", strings.ReplaceAll(says, `"`, `\"`))
			}
		})
	}
}

// A reload with another directory would give the former directory's sessions and openids to
// other people. It is refused, and the error contains the line to write. With that line it
// succeeds.
func TestReloadWithAnotherDirectory(t *testing.T) {
	t.Parallel()
	rig.OnDatabases(t, func(t *testing.T, db *rig.Database) {
		g, _ := prepareSites(t, db.Environ()...)
		g.Start(t, rig.ReplicaSite(shopHook+"}"))
		p := g.MustLogin(t, number)
		for _, mistaken := range []string{rig.ReplicaSite(crewHook + "}"), rig.ReplicaSite(), rig.ReplicaSite(crewHook + "realm crew\n}")} {
			err := g.Caddy.Reload(mistaken)
			if err == nil || !strings.Contains(err.Error(), "table_prefix") {
				t.Fatalf("another directory: %v", err)
			}
			if line := "realm webhook:" + g.Caddy.Getenv("SHOP"); !strings.Contains(err.Error(), "`"+line+"`") {
				t.Fatalf("the error does not have the line %q: %v", line, err)
			}
			g.Get("/", p.Token).Seen(t).WantHeader(t, "X-WX-USER-ID", "m"+number)
		}
		// The URL is another one, but the users are the same.
		g.MustReload(t, rig.ReplicaSite(crewHook+"realm webhook:"+g.Caddy.Getenv("SHOP")+"\n}"))
		g.Refresh(p.RefreshToken).Pair(t)
		// A command compares the names too.
		csv := g.Caddy.Home + "/users.csv"
		writeFile(t, csv, "appid,openid,unionid,phone,user id\n"+rig.AppID+",o1,,+8613700137000,m1\n")
		if err := g.Caddy.Reload(rig.ReplicaSite(shopHook + "}")); err != nil {
			t.Fatal(err)
		}
		writeFile(t, g.Caddy.Home+"/other.Caddyfile", rig.ReplicaSite(crewHook+"}"))
		for _, args := range [][]string{{"import", csv}, {"keys", "list"}, {"keys", "rotate"}, {"rekey"}} {
			out, err := g.Caddy.Command(append(append([]string{"wx-auth"}, args...), "--config", g.Caddy.Home+"/other.Caddyfile", "--adapter", "caddyfile")...)
			if err == nil || !strings.Contains(out, "realm webhook:") {
				t.Errorf("%v with another directory: %v: %s", args, err, out)
			}
		}
		if out, err := g.Caddy.Command("wx-auth", "import", csv, "--config", g.Caddy.Home+"/Caddyfile"); err != nil {
			t.Errorf("import with the same directory: %v: %s", err, out)
		}
	})
}

// The simulator used for staging gives a tester the openid of a customer. A store
// accepts an appid from one WeChat only.
func TestStoreTakesAnAppidFromOneWeChat(t *testing.T) {
	t.Parallel()
	g := rig.NewGatewayWith(t, rig.GatewaySite())
	p := g.MustLogin(t, number)
	another := rig.NewWeChat(t)
	was := strings.TrimPrefix(g.WeChat.URL, "http://")
	g.Caddy.Setenv("WX_API", another.URL)
	err := g.Caddy.Reload(rig.GatewaySite())
	if err == nil || !strings.Contains(err.Error(), "`realm "+was+"`") || !strings.Contains(err.Error(), "table_prefix") {
		t.Fatalf("another WeChat: %v", err)
	}
	g.Get("/", p.Token).Want(t, http.StatusOK)
	named := func(realm string) string {
		return strings.Replace(rig.GatewaySite(), "api {$WX_API}", "api {$WX_API}\nrealm "+realm, 1)
	}
	if err := g.Caddy.Reload(named("staging")); err == nil {
		t.Error("another realm was taken")
	}
	g.MustReload(t, named(was))
	// Two sites of one configuration use different WeChats.
	two, _ := prepareSites(t)
	err = two.Caddy.TryStart(strings.Replace(twoSites("", ""), "api {$WX_API}", "api http://127.0.0.1:9\n", 1))
	if err == nil {
		t.Fatal("two WeChats for one appid in one store")
	}
	two.Caddy.Log.Wait(t, 20*time.Second, "two WeChats", "`realm ", "table_prefix")
}

// Two find queries on one database give the same ids to different people.
func TestSitesWithTwoFindQueries(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, g *rig.Gateway, db *rig.Database) {
		site := func(table, realm string) string {
			return "store {env.WX_AUTH_STORE}\nencryption_key {env.WX_AUTH_KEY}\nusers sql {env.WX_AUTH_STORE} {\nfind \"SELECT id FROM " + table + " WHERE phone = :phone\"\ncheck \"SELECT id FROM " + table + " WHERE id = :id\"\n" + realm + "\n}"
		}
		db.Run(t, "CREATE TABLE staff (id varchar(40) PRIMARY KEY, phone varchar(40) UNIQUE)")
		db.Run(t, "CREATE TABLE shoppers (id varchar(40) PRIMARY KEY, phone varchar(40) UNIQUE)")
		for _, v := range append(db.Environ(), "STAFF="+rig.FreeAddress(t)) {
			name, value, _ := strings.Cut(v, "=")
			g.Caddy.Setenv(name, value)
		}
		g.Caddy.Start(rig.Site("respond hello"))
		if err := g.Caddy.Reload(twoSites(site("shoppers", ""), site("staff", ""))); err == nil || !strings.Contains(err.Error(), "`realm ") {
			t.Fatalf("two find queries: %v", err)
		}
		if err := g.Caddy.Reload(twoSites(site("shoppers", "realm people"), site("staff", ""))); err == nil {
			t.Fatal("one of two find queries without a realm was taken")
		}
		one := rig.Site("wx_auth {env.WX_APPID} {env.WX_SECRET} {\nwechat {\napi {$WX_API}\n}\n" + site("shoppers", "") + "\n}")
		const changed = "the find query of `users sql` has changed"
		g.MustReload(t, one)
		lines := len(g.Caddy.Log.Lines(changed))
		g.MustReload(t, one)
		if n := len(g.Caddy.Log.Lines(changed)); n != lines {
			t.Errorf("%d warnings of a query that is the same", n-lines)
		}
		g.MustReload(t, strings.Replace(one, "FROM shoppers", "FROM staff", 1))
		if n := len(g.Caddy.Log.Lines(changed, "`realm people`")); n != lines+1 {
			t.Errorf("%d warnings of another query", n-lines)
		}
	})
}

// Two sites spell the URL of one store differently, so it looks like two. It must be
// recognized as one, or a customer of the shop would be a member of staff.
func TestOneStoreInTwoSpellings(t *testing.T) {
	t.Parallel()
	rig.OnDatabases(t, func(t *testing.T, db *rig.Database) {
		g, _ := prepareSites(t, db.Environ()...)
		second := strings.NewReplacer("127.0.0.1", "localhost", "/run/", "/run/./", "%2Frun%2F", "%2Frun%2F.%2F").Replace(db.URL) // the last pair is for a Unix socket
		if db.Kind == "sqlite" {
			path := strings.TrimPrefix(db.URL, "sqlite:")
			link := filepath.Join(t.TempDir(), "link")
			if err := os.Symlink(filepath.Dir(path), link); err != nil {
				t.Fatal(err)
			}
			second = "sqlite:" + filepath.Join(link, filepath.Base(path))
		}
		if second == db.URL {
			t.Fatalf("no second spelling of %s is known", db.URL)
		}
		g.Caddy.Setenv("WX_AUTH_AGAIN", second)
		site := func(store, tenant, more string) string {
			return "store {env." + store + "}\nencryption_key {env.WX_AUTH_KEY}\nusers webhook {env.SHOP}?tenant=" + tenant + " {\nsecret {env.HOOK_SECRET}\n" + more + "}"
		}
		if err := g.Caddy.TryStart(twoSites(site("WX_AUTH_STORE", "shop", ""), site("WX_AUTH_AGAIN", "staff", ""))); err == nil {
			t.Fatal("it started")
		}
		g.Caddy.Log.Wait(t, 20*time.Second, `"level":"error"`, "two sites share the store", "`realm ")
		g.Start(t, twoSites(site("WX_AUTH_STORE", "shop", "realm people\n"), site("WX_AUTH_AGAIN", "staff", "realm people\n")))
	})
}

// A backend serves two tenants, selected by a parameter. A reload that selects the other
// tenant would give sessions to other people. The log warns of it, with the remedy.
func TestChangedParameterIsWarnedOf(t *testing.T) {
	t.Parallel()
	g, _ := prepareSites(t)
	site := func(tenant string) string {
		return rig.HastySite("users webhook {env.SHOP}?tenant=" + tenant + " {\nsecret {env.HOOK_SECRET}\n}")
	}
	const changed = "the parameters of the URL of `users webhook` have changed"
	g.Start(t, site("shop"))
	g.MustReload(t, site("shop"))
	if lines := g.Caddy.Log.Lines(changed); len(lines) != 0 {
		t.Errorf("the same parameter: %s", lines)
	}
	g.MustReload(t, site("staff"))
	g.Caddy.Log.Wait(t, 10*time.Second, changed) // the log reaches us later than the reload's end
	if lines := g.Caddy.Log.Lines(changed, "`realm people`"); len(lines) != 1 {
		t.Errorf("%d warnings of another parameter", len(lines))
	}
}

// Two replicas with different directories start at once on an empty store. One of them
// is refused.
func TestFirstReplicasWithTwoDirectories(t *testing.T) {
	t.Parallel()
	rig.OnDatabases(t, func(t *testing.T, db *rig.Database) {
		replicas := rig.PrepareReplicas(t, db, 2)
		shop := newBackend(t)
		started := make([]<-chan error, 2)
		for i, r := range replicas {
			r.Caddy.Setenv("SHOP", shop.url)
			r.Caddy.Setenv("HOOK_SECRET", secret)
			started[i] = rig.InBackground(func() error {
				return r.Caddy.TryStart(rig.ReplicaSite(shopHook + "realm people" + fmt.Sprint(i) + "\n}"))
			})
		}
		refused := 0
		for _, s := range started {
			if err := <-s; err != nil {
				refused++
			}
		}
		if refused != 1 {
			t.Errorf("%d of two were refused", refused)
		}
		if n := db.Count(t, "SELECT COUNT(*) FROM wx_auth_meta WHERE name = 'directory'"); n != 1 {
			t.Errorf("%d names of directories", n)
		}
	})
}

// The database is down when a configuration with another directory is loaded. Once it
// is back, the site answers `misconfigured`, and nobody gets another user's session.
func TestOtherDirectoryAfterAnOutage(t *testing.T) {
	t.Parallel()
	server := rig.NewServer(t, "postgres")
	replicas := rig.PrepareReplicas(t, server.Database, 2)
	shop := newBackend(t)
	for _, r := range replicas {
		r.Caddy.Setenv("SHOP", shop.url)
		r.Caddy.Setenv("HOOK_SECRET", secret)
	}
	first, second := replicas[0], replicas[1]
	first.Start(t, rig.ReplicaSite(shopHook+"}"))
	p := first.MustLogin(t, number)
	server.Stop()
	// The running process has the store open, so it knows the store's name.
	if err := first.Caddy.Reload(rig.ReplicaSite(shopHook + "realm others\n}")); err == nil || !strings.Contains(err.Error(), "`realm webhook:") {
		t.Errorf("a reload with another directory: %v", err)
	}
	first.Get("/", p.Token).Seen(t).WantHeader(t, "X-WX-USER-ID", "m"+number)
	second.Caddy.Start(rig.ReplicaSite(shopHook + "realm others\n}"))
	second.Get("/", p.Token).WantProblem(t, http.StatusServiceUnavailable, "store_unavailable", nil)
	server.Start()
	codes := second.WeChat.Tap(t, number)
	rig.Await(t, 60*time.Second, "the second is misconfigured", func() bool {
		return second.Get("/", p.Token).Problem(t).Code == "misconfigured"
	})
	second.Login(codes.Code, codes.PhoneCode).WantProblem(t, http.StatusServiceUnavailable, "misconfigured", []string{})
	second.Refresh(p.RefreshToken).WantProblem(t, http.StatusServiceUnavailable, "misconfigured", nil)
	second.Get("/auth/wx/health/ready", "").Want(t, http.StatusServiceUnavailable)
	second.Get("/auth/wx/health/live", "").Want(t, http.StatusOK)
	second.Caddy.Log.Wait(t, 20*time.Second, "cannot be used", `"remedy":"if the ids are the same people's, write `)
	rig.Await(t, 60*time.Second, "the first is back", func() bool { return first.Get("/auth/wx/health", "").Status == http.StatusOK })
	first.Refresh(p.RefreshToken).Pair(t)
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
