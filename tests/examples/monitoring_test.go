package examples

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

const monitoring = "../../examples/monitoring/"

// requirePrometheus makes the tests of examples/monitoring fail, rather than be skipped,
// without Prometheus. .ci/run sets it.
const requirePrometheus = "WX_AUTH_TEST_REQUIRE_PROMETHEUS"

// prometheusProgram returns the path of one of Prometheus's programs.
func prometheusProgram(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	switch {
	case err == nil:
	case os.Getenv(requirePrometheus) != "":
		t.Fatalf("%s is set, and there is no %s", requirePrometheus, name)
	default:
		t.Skipf("LEFT OUT: examples/monitoring, without %s (%s=1 makes this a failure)", name, requirePrometheus)
	}
	return path
}

var alertName = regexp.MustCompile(`(?m)^ *- alert: (\w+)$`)

// alertNames returns the names of the alerts in alerts.yml.
func alertNames(t *testing.T) (names []string) {
	t.Helper()
	rules, err := os.ReadFile(monitoring + "alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range alertName.FindAllStringSubmatch(string(rules), -1) {
		names = append(names, m[1])
	}
	if len(names) < 10 {
		t.Fatalf("only %d alerts", len(names))
	}
	return names
}

// The alert rules come with tests of Prometheus's own, in which each alert fires and ends.
func TestAlertRulesPassTheirTests(t *testing.T) {
	t.Parallel()
	promtool := prometheusProgram(t, "promtool")
	for _, args := range [][]string{{"check", "config", "prometheus.yml"}, {"test", "rules", "alerts_test.yml"}} {
		cmd := exec.Command(promtool, args...)
		cmd.Dir = monitoring
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
	cases, err := os.ReadFile(monitoring + "alerts_test.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range alertNames(t) {
		if !strings.Contains(string(cases), "- name: "+name+" fires, and ends\n") {
			t.Errorf("%s has no test", name)
		}
	}
}

// watch is a Prometheus that watches a gateway.
type watch struct {
	t    *testing.T
	base string
}

// shortened makes the rules react quickly: windows of ten seconds, and no waiting time.
// Thresholds that are ages become seconds too.
func shortened(rules string) string {
	rules = regexp.MustCompile(`\[\d+[mh]\]`).ReplaceAllString(rules, "[10s]")
	rules = regexp.MustCompile(`for: \d+m`).ReplaceAllString(rules, "for: 1s")
	return strings.ReplaceAll(rules, "revocation_feed_age_seconds) > 30", "revocation_feed_age_seconds) > 5")
}

// newWatch starts Prometheus on the example's rules, each evaluated every second.
func newWatch(t *testing.T, target string) *watch {
	t.Helper()
	program := prometheusProgram(t, "prometheus")
	dir := t.TempDir()
	rules, err := os.ReadFile(monitoring + "alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile(monitoring + "prometheus.yml")
	if err != nil {
		t.Fatal(err)
	}
	text := rig.Replaced(t, string(config), "scrape_interval: 15s", "scrape_interval: 1s", "evaluation_interval: 15s", "evaluation_interval: 1s", "localhost:2019", target)
	for name, content := range map[string]string{"prometheus.yml": text, "alerts.yml": shortened(string(rules))} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	addr := rig.FreeAddress(t)
	rig.StartProgram(t, exec.Command(program, "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+addr))
	w := &watch{t, "http://" + addr}
	rig.Await(t, time.Minute, "Prometheus is ready", func() bool {
		resp, err := http.Get(w.base + "/-/ready")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return w
}

// ask asks Prometheus's API.
func (w *watch) ask(path string, query url.Values, data any) {
	w.t.Helper()
	resp, err := http.Get(w.base + "/api/v1/" + path + "?" + query.Encode())
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer := struct {
		Status, Error string
		Data          any
	}{Data: data}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Status != "success" {
		w.t.Fatalf("%s %v: %v %s", path, query, err, answer.Error)
	}
}

// firing returns the names of the alerts that fire.
func (w *watch) firing() (names []string) {
	w.t.Helper()
	var data struct {
		Alerts []struct {
			State  string
			Labels map[string]string
		}
	}
	w.ask("alerts", nil, &data)
	for _, a := range data.Alerts {
		if name := a.Labels["alertname"]; a.State == "firing" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// dashboardQueries returns the queries of the dashboard by the titles of their panels.
func dashboardQueries(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(monitoring + "dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	queries := make(map[string]string)
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			queries[p.Title] = strings.NewReplacer("$__rate_interval", "10s", "$app", ".*").Replace(target.Expr)
		}
	}
	if len(queries) < 15 {
		t.Fatalf("only %d panels", len(queries))
	}
	return queries
}

// monitored is a gateway with a store that a test can stop and a second app whose secret
// is wrong.
type monitored struct {
	*rig.Gateway
	t       *testing.T
	db      *rig.Server
	users   atomic.Int64
	address string // of the metrics
}

const wrongApp = "wx0000000000000bad"

func newMonitored(t *testing.T) *monitored {
	t.Helper()
	m := &monitored{t: t, db: rig.NewServer(t, "postgres"), address: rig.FreeAddress(t)}
	w, up := rig.NewWeChat(t), rig.NewUpstream(t)
	if err := w.AddApp(wechattest.App{ID: wrongApp, Secret: "not the one in the Caddyfile"}); err != nil {
		t.Fatal(err)
	}
	c := rig.NewCaddyOf(t, rig.BuildWith(t, "monitored", rig.Panics), append(append(w.Environ(up.Addr), m.db.Environ()...), "METRICS="+m.address)...)
	c.Start(rig.Site("wx_auth {env.WX_APPID} {env.WX_SECRET} {\napp "+wrongApp+" {env.WX_SECRET}\nlogin_rate 1000000/m\nstore {env.WX_AUTH_STORE}\nencryption_key {env.WX_AUTH_KEY}\n"+
		"wechat {\napi {$WX_API}\n}\n}\nreverse_proxy {$UPSTREAM}", rig.TrustedLoopback) + "http://{$METRICS} {\nmetrics\n}\n")
	m.Gateway = &rig.Gateway{WeChat: w, Upstream: up, Caddy: c, Client: c.Client()}
	return m
}

// login logs in another user each time, each from an address of their own.
func (m *monitored) login() rig.Answer {
	n := m.users.Add(1)
	codes := m.WeChat.Tap(m.t, fmt.Sprintf("137%08d", n%50))
	return m.Do(http.MethodPost, "/auth/wx", map[string]string{"code": codes.Code, "phoneCode": codes.PhoneCode, "appid": rig.AppID},
		fmt.Sprintf("X-Forwarded-For: 198.51.100.%d", n%200))
}

// inject makes WeChat fail.
func (m *monitored) inject(f wechattest.Fault) {
	m.t.Helper()
	if err := m.WeChat.Inject(f); err != nil {
		m.t.Fatal(err)
	}
}

// works waits until logins work again.
func (m *monitored) works() {
	m.t.Helper()
	m.WeChat.ClearFaults()
	rig.Await(m.t, time.Minute, "logins work again", func() bool { return m.login().Status == http.StatusOK })
}

// The example runs: the real Prometheus scrapes a gateway with traffic and loads the
// rules. Every query of the dashboard has data. Then things go wrong, one after the
// other: each alert fires while its cause lasts, and ends after it.
func TestMonitoringExample(t *testing.T) {
	prometheusProgram(t, "prometheus")
	t.Parallel()
	m := newMonitored(t)
	w := newWatch(t, m.address)

	pair := m.login().Pair(t)
	for title, query := range dashboardQueries(t) {
		rig.Await(t, 2*time.Minute, "the panel "+title+" has data: "+query, func() bool {
			m.login()
			pair = m.Refresh(pair.RefreshToken).Pair(t)
			m.Get("/", pair.Token)
			m.Get("/", pair.Token)
			m.Get("/", "")
			var data struct{ Result []any }
			w.ask("query", url.Values{"query": {query}}, &data)
			if len(data.Result) == 0 {
				pair = m.login().Pair(t) // a session may be refreshed ten times a minute
				return false
			}
			pair = m.login().Pair(t)
			return true
		})
	}
	if names := w.firing(); len(names) > 0 {
		t.Errorf("all is well, and %v fire", names)
	}

	fired := make(map[string]bool)
	// until repeats the cause until the alerts fire.
	until := func(cause func(), alerts ...string) {
		t.Helper()
		rig.Await(t, 2*time.Minute, fmt.Sprint(alerts, " fire"), func() bool {
			cause()
			for _, name := range w.firing() {
				fired[name] = true
			}
			return !slices.ContainsFunc(alerts, func(a string) bool { return !fired[a] })
		})
	}
	m.inject(wechattest.Fault{Call: wechattest.Code2Session, Kind: wechattest.Reset, Count: -1})
	until(func() { rig.AtOnce(5, func(int) { m.login() }) }, "WxAuthLoginsFail", "WxAuthWeChatDown")
	m.works()
	m.inject(wechattest.Fault{Call: wechattest.Code2Session, Kind: wechattest.Delay, Delay: 3 * time.Second, Count: -1})
	until(func() { rig.AtOnce(10, func(int) { m.login() }) }, "WxAuthWeChatSlow")
	m.works()
	until(func() {
		m.inject(wechattest.Fault{Call: wechattest.Code2Session, Kind: wechattest.Errcode, Errcode: 45011})
		m.Do(http.MethodPost, "/auth/wx", map[string]string{"code": m.WeChat.Open(t, "13800138000").Code, "appid": rig.AppID})
	}, "WxAuthWeChatQuota")
	until(func() {
		m.inject(wechattest.Fault{Call: wechattest.PhoneNumber, Kind: wechattest.Reset, Late: true})
		m.login()
	}, "WxAuthPhoneCodesLost")
	m.works()
	until(func() {
		codes, err := m.WeChat.Mint(wrongApp, "", wechattest.Phone{Number: "13800138000"})
		if err != nil {
			t.Fatal(err)
		}
		m.Do(http.MethodPost, "/auth/wx", map[string]string{"code": codes.Code, "phoneCode": codes.PhoneCode, "appid": wrongApp})
	}, "WxAuthMisconfigured", "WxAuthAccessTokenFails")
	until(func() { rig.AtOnce(20, func(int) { m.Get("/", pair.Token+"x") }) }, "WxAuthTokensInvalid")
	until(func() { m.Get("/", pair.Token, "X-Panic: yes"); m.Get("/auth/wx/me", pair.Token, "X-Panic: yes") }, "WxAuthPanics")
	until(func() {
		stolen := make([]string, 30)
		for i := range stolen {
			stolen[i] = m.login().Pair(t).RefreshToken
			m.Refresh(m.Refresh(stolen[i]).Pair(t).RefreshToken).Pair(t)
		}
		rig.AtOnce(len(stolen), func(i int) { m.Refresh(stolen[i]) })
	}, "WxAuthTokensReused")
	until(func() {
		held, err := m.db.Begin()
		if err != nil {
			t.Fatal(err)
		}
		defer held.Rollback()
		if _, err := held.Exec("LOCK TABLE wx_auth_sessions IN ACCESS EXCLUSIVE MODE"); err != nil {
			t.Fatal(err)
		}
		slow := rig.InBackground(func() error { rig.AtOnce(5, func(int) { m.login() }); return nil })
		if _, err := held.Exec("SELECT pg_sleep(1.5)"); err != nil {
			t.Fatal(err)
		}
		if err := held.Rollback(); err != nil {
			t.Fatal(err)
		}
		if err := rig.Within(t, time.Minute, "the logins end", slow); err != nil {
			t.Fatal(err)
		}
	}, "WxAuthStoreSlow")
	m.db.Stop()
	until(func() { m.login() }, "WxAuthStoreDown", "WxAuthRevocationsStale")
	m.db.Start()
	m.works()
	m.Caddy.Stop()
	until(func() {}, "WxAuthDown")
	m.Caddy.Restart()
	m.Client = m.Caddy.Client()

	rig.Await(t, 2*time.Minute, "all alerts end", func() bool { return m.login().Status == http.StatusOK && len(w.firing()) == 0 })
	for _, name := range alertNames(t) {
		if !fired[name] {
			t.Errorf("%s did not fire", name)
		}
	}
}
