package operation

import (
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// metricsContract lists our metrics with their labels, alphabetically.
var metricsContract = map[string]string{
	"logins_total":                            "app kind outcome",
	"phone_codes_total":                       "app fate",
	"refreshes_total":                         "outcome",
	"requests_refused_total":                  "code",
	"wechat_calls_total":                      "app call class wechat",
	"wechat_call_duration_seconds_count":      "call wechat",
	"wechat_call_duration_seconds_sum":        "call wechat",
	"wechat_call_duration_seconds_bucket":     "call le wechat",
	"wechat_breaker_open":                     "call wechat",
	"access_token_age_seconds":                "app wechat",
	"access_token_fetches_total":              "app outcome wechat",
	"token_cache_hits_total":                  "",
	"token_cache_misses_total":                "",
	"token_cache_entries":                     "",
	"store_operations_total":                  "operation outcome store",
	"store_operation_duration_seconds_count":  "operation store",
	"store_operation_duration_seconds_sum":    "operation store",
	"store_operation_duration_seconds_bucket": "le operation store",
	"store_retries_total":                     "operation store",
	"sessions":                                "store",
	"revocation_feed_age_seconds":             "store",
	"panics_total":                            "",
	"build_info":                              "version",
}

var labelName = regexp.MustCompile(`([a-z_]+)="`)

// ours returns our metrics in a scrape, each with the names of its labels.
func ours(m rig.Metrics) map[string]string {
	found := make(map[string]string)
	for series := range m {
		name, labels, _ := strings.Cut(series, "{")
		name, isOurs := strings.CutPrefix(name, "caddy_wx_auth_")
		if !isOurs {
			continue
		}
		var names []string
		for _, l := range labelName.FindAllStringSubmatch(labels, -1) {
			names = append(names, l[1])
		}
		slices.Sort(names)
		found[name] = strings.Join(names, " ")
	}
	return found
}

// An alert rule names metrics and labels, and needs their series before the first event.
func TestMetricsAreTheContract(t *testing.T) {
	t.Parallel()
	r := rig.NewGateway(t)
	first := r.Caddy.Metrics(t)
	for _, series := range []string{
		`logins_total{app="` + rig.AppID + `",kind="phone",outcome="ok"}`,
		`logins_total{app="` + rig.AppID + `",kind="silent",outcome="phone_required"}`,
		`phone_codes_total{app="` + rig.AppID + `",fate="lost"}`,
		`refreshes_total{outcome="reuse_detected"}`,
		`requests_refused_total{code="token_missing"}`,
		`wechat_calls_total{app="` + rig.AppID + `",call="jscode2session",class="ok",wechat="` + strings.TrimPrefix(r.WeChat.URL, "http://") + `"}`,
		`store_operations_total{operation="commit_login",outcome="ok",store="wx_auth.db"}`,
		"token_cache_hits_total", "panics_total",
	} {
		if value, ok := first["caddy_wx_auth_"+series]; !ok || value != 0 {
			t.Errorf("at the start: %s is %v, exists: %v", series, value, ok)
		}
	}
	if _, ok := first[`caddy_wx_auth_revocation_feed_age_seconds{store="wx_auth.db"}`]; !ok {
		t.Error("no age of the feed at the start")
	}
	r.MustLogin(t, "13800138000")
	rig.Await(t, time.Minute, "the sessions are counted", func() bool {
		return r.Caddy.Metrics(t)[`caddy_wx_auth_sessions{store="wx_auth.db"}`] == 1
	})
	if got := ours(r.Caddy.Metrics(t)); !maps.Equal(got, metricsContract) {
		for name := range metricsContract {
			if labels, ok := got[name]; !ok || labels != metricsContract[name] {
				t.Errorf("%s has the labels %q, want %q", name, labels, metricsContract[name])
			}
			delete(got, name)
		}
		if len(got) > 0 {
			t.Errorf("also %v", got)
		}
	}
}

// counted returns how much the series of a metric have increased since before. series is a
// metric, optionally with some of its labels.
func counted(before, now rig.Metrics, series string) float64 {
	name, labels, _ := strings.Cut(strings.TrimSuffix(series, "}"), "{")
	var all []string
	if labels != "" {
		all = strings.Split(labels, ",")
	}
	return now.Sum("caddy_wx_auth_"+name, all...) - before.Sum("caddy_wx_auth_"+name, all...)
}

// Each answer is counted by its outcome, even the answer to a request that began no login.
func TestEveryAnswerIsCounted(t *testing.T) {
	t.Parallel()
	r := rig.NewGateway(t, "service_key 0123456789abcdef0123456789abcdef")
	c, w := r.Caddy, r.WeChat
	wantCounted := func(what string, do func(), want map[string]float64) {
		t.Helper()
		before := c.Metrics(t)
		do()
		now := before
		rig.Await(t, 10*time.Second, what+" is counted", func() bool { // a login is counted in parallel with its answer
			now = c.Metrics(t)
			return !slices.ContainsFunc(slices.Collect(maps.Keys(want)), func(s string) bool { return counted(before, now, s) < want[s] })
		})
		for series, n := range want {
			if got := counted(before, now, series); got != n {
				t.Errorf("%s: %s counted %v, want %v", what, series, got, n)
			}
		}
	}
	app := `app="` + rig.AppID + `"`
	var pair rig.Pair
	codes := w.Tap(t, "13800138000")
	wantCounted("a phone login", func() { pair = r.Login(codes.Code, codes.PhoneCode).Pair(t) }, map[string]float64{
		"logins_total": 1, "logins_total{" + app + `,kind="phone",outcome="ok"}`: 1,
		"phone_codes_total": 1, "phone_codes_total{" + app + `,fate="exchanged"}`: 1,
		"wechat_calls_total": 3, `wechat_calls_total{call="getuserphonenumber",class="ok"}`: 1, "wechat_call_duration_seconds_count": 3,
		"access_token_fetches_total": 1, `access_token_fetches_total{outcome="ok"}`: 1,
		`store_operations_total{operation="commit_login",outcome="ok"}`: 1, "requests_refused_total": 0,
	})
	wantCounted("the same codes again", func() { r.Login(codes.Code, codes.PhoneCode).Pair(t) }, map[string]float64{
		"logins_total": 1, "phone_codes_total": 1, `phone_codes_total{fate="replayed"}`: 1, "wechat_calls_total": 0,
	})
	wantCounted("a silent login", func() { r.Silent(w.Open(t, "13800138000").Code).Pair(t) }, map[string]float64{
		"logins_total": 1, "logins_total{" + app + `,kind="silent",outcome="ok"}`: 1, "phone_codes_total": 0,
	})
	wantCounted("a stranger", func() { r.Silent(w.Open(t, "13900139000").Code) }, map[string]float64{
		"logins_total": 1, `logins_total{kind="silent",outcome="phone_required"}`: 1,
	})
	wantCounted("a phone code of nobody", func() { r.Login(w.Open(t, "13800138000").Code, "nobodys") }, map[string]float64{
		"logins_total": 1, `logins_total{kind="phone",outcome="phone_code_invalid"}`: 1,
		"phone_codes_total": 1, `phone_codes_total{fate="refused"}`: 1, `wechat_calls_total{call="getuserphonenumber",class="phone_code"}`: 1,
	})
	wantCounted("no JSON", func() { r.Do(http.MethodPost, "/auth/wx", "{") }, map[string]float64{
		"logins_total": 1, "logins_total{" + app + `,outcome="invalid_request"}`: 1, "requests_refused_total": 0,
	})
	wantCounted("another appid", func() {
		r.Do(http.MethodPost, "/auth/wx", map[string]string{"code": "x", "appid": "wxffffffffffffffff"})
	}, map[string]float64{
		"logins_total": 1, `logins_total{app="none",outcome="invalid_request"}`: 1,
	})
	wantCounted("requests with a token", func() { r.Get("/", pair.Token); r.Get("/", pair.Token); r.Get("/a", pair.Token) }, map[string]float64{
		"token_cache_hits_total": 2, "token_cache_misses_total": 1, "requests_refused_total": 0,
	})
	wantCounted("requests without one", func() {
		r.Get("/", "")
		r.Get("/", pair.Token+"x")
		r.Get("/auth/wx/verify", "")
		r.Get("/auth/wx/nothing", "")
		r.Get("/auth/wx/service/users/1", "")
	}, map[string]float64{
		"requests_refused_total": 5, `requests_refused_total{code="token_missing"}`: 2, `requests_refused_total{code="token_invalid"}`: 1,
		`requests_refused_total{code="not_found"}`: 1, `requests_refused_total{code="service_key_invalid"}`: 1,
	})
	wantCounted("refreshes", func() {
		r.Refresh(pair.RefreshToken).Pair(t)
		r.Refresh("nobodys")
		r.Do(http.MethodPost, "/auth/wx/refresh", "{")
	}, map[string]float64{
		"refreshes_total": 3, `refreshes_total{outcome="ok"}`: 1, `refreshes_total{outcome="refresh_invalid"}`: 1, `refreshes_total{outcome="invalid_request"}`: 1,
	})
	wantCounted("WeChat answers nothing", func() {
		if err := w.Inject(wechattest.Fault{Call: wechattest.Code2Session, Kind: wechattest.Reset, Count: 2}); err != nil {
			t.Fatal(err)
		}
		r.Silent(w.Open(t, "13800138000").Code)
	}, map[string]float64{
		"logins_total": 1, `logins_total{outcome="wechat_unavailable"}`: 1, `wechat_calls_total{call="jscode2session",class="unreachable"}`: 2,
	})
	m := c.Metrics(t)
	if age := m.Sum("caddy_wx_auth_access_token_age_seconds", app); age <= 0 || age > 600 {
		t.Errorf("the access token is %v s old", age)
	}
	if n := m["caddy_wx_auth_token_cache_entries"]; n != 1 {
		t.Errorf("%v entries in the cache", n)
	}
}

// An on-call person reloads again and again. Counts go on, the admin endpoint answers,
// and nothing leaks.
func TestMetricsOutliveReloads(t *testing.T) {
	t.Parallel()
	r := rig.NewGateway(t)
	site := func(i int) string { return rig.GatewaySite(fmt.Sprintf("login_rate %d/m", 1000+i%2)) }
	pair := r.MustLogin(t, "13800138000")
	r.MustReload(t, site(1)) // the first reload opens connections that stay open
	before := r.Caddy.Usage(t)
	const reloads = 50
	for i := range reloads {
		// Caddy's proxy would keep an idle connection for each configuration, so the
		// upstream is left out.
		r.Get("/auth/wx/verify", pair.Token).Want(t, http.StatusNoContent)
		r.Get("/", "").Want(t, http.StatusUnauthorized)
		r.MustReload(t, site(i))
	}
	pair = r.Refresh(pair.RefreshToken).Pair(t)
	m := r.Caddy.Metrics(t)
	for series, want := range map[string]float64{
		`logins_total{app="` + rig.AppID + `",kind="phone",outcome="ok"}`: 1,
		`requests_refused_total{code="token_missing"}`:                    reloads,
		`refreshes_total{outcome="ok"}`:                                   1,
		"token_cache_misses_total":                                        1,
		"token_cache_hits_total":                                          reloads - 1,
		"token_cache_entries":                                             1,
	} {
		if got := m["caddy_wx_auth_"+series]; got != want {
			t.Errorf("%s is %v, want %v", series, got, want)
		}
	}
	rig.Await(t, time.Minute, "no goroutine or file is left of fifty configurations", func() bool {
		now := r.Caddy.Usage(t)
		return now.Goroutines < before.Goroutines+25 && now.Files < before.Files+25
	})
}
