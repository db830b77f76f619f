package metrics

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// gather returns the series of a registry with their values. The value of a histogram is its count.
func gather(t *testing.T, m *Metrics) map[string]float64 {
	t.Helper()
	reg := prometheus.NewPedanticRegistry() // like Caddy's, it checks what is collected
	if err := m.Register(reg); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	series := make(map[string]float64)
	for _, f := range families {
		for _, one := range f.GetMetric() {
			var labels []string
			for _, l := range one.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			value := float64(one.GetHistogram().GetSampleCount())
			switch f.GetType().String() {
			case "COUNTER":
				value = one.GetCounter().GetValue()
			case "GAUGE":
				value = one.GetGauge().GetValue()
			}
			series[f.GetName()+"{"+strings.Join(labels, ",")+"}"] = value
		}
	}
	return series
}

// rate() and absent() in alerts need the series to exist before the first event.
func TestSeriesExistAtZero(t *testing.T) {
	m := New()
	m.Serves("wx1", "")
	m.Stores("wx.db", []string{"commit_login"})
	got := gather(t, m)
	for _, series := range []string{
		"logins_total{app=wx1,kind=phone,outcome=ok}", "logins_total{app=wx1,kind=silent,outcome=phone_required}",
		"logins_total{app=none,kind=phone,outcome=invalid_request}", "logins_total{app=wx1,kind=test,outcome=ok}",
		"phone_codes_total{app=wx1,fate=lost}", "refreshes_total{outcome=reuse_detected}", "requests_refused_total{code=token_expired}",
		"wechat_calls_total{app=wx1,call=jscode2session,class=ok,wechat=weixin.qq.com}",
		"wechat_calls_total{app=wx1,call=getuserphonenumber,class=timeout,wechat=weixin.qq.com}",
		"wechat_call_duration_seconds{call=getuserphonenumber,wechat=weixin.qq.com}",
		"wechat_breaker_open{call=access_token,wechat=weixin.qq.com}",
		"access_token_fetches_total{app=wx1,outcome=ok,wechat=weixin.qq.com}",
		"token_cache_hits_total{}", "token_cache_misses_total{}", "token_cache_entries{}", "panics_total{}",
		"store_operations_total{operation=commit_login,outcome=unavailable,store=wx.db}",
		"store_operation_duration_seconds{operation=commit_login,store=wx.db}",
	} {
		if value, ok := got["caddy_wx_auth_"+series]; !ok || value != 0 {
			t.Errorf("%s: %v, exists: %v", series, value, ok)
		}
	}
	if !slices.ContainsFunc(slices.Collect(maps.Keys(got)), func(s string) bool { return strings.HasPrefix(s, "caddy_wx_auth_build_info{version=") }) {
		t.Error("no build_info")
	}
	for _, unknown := range []string{"access_token_age_seconds", "sessions", "revocation_feed_age_seconds"} {
		for series := range got {
			if strings.HasPrefix(series, "caddy_wx_auth_"+unknown+"{") {
				t.Errorf("%s has a value before one is known", series)
			}
		}
	}
}

// Each configuration has its own registry. The counts outlive the first one, and appear in the
// second.
func TestCountsOutliveARegistry(t *testing.T) {
	m := New()
	m.Serves("wx1", "staging")
	m.Login("wx1", Phone, "")
	m.Refused(problem.TokenMissing)
	m.PhoneCode("wx1", login.Exchanged)
	gather(t, m)
	m.Login("wx1", Phone, "")
	m.Refused(problem.TokenMissing)
	m.Fetch("staging", "wx1", wechat.KindQuota)
	m.Hits.Inc()
	got := gather(t, m)
	for series, want := range map[string]float64{
		"logins_total{app=wx1,kind=phone,outcome=ok}":                      2,
		"requests_refused_total{code=token_missing}":                       2,
		"phone_codes_total{app=wx1,fate=exchanged}":                        1,
		"access_token_fetches_total{app=wx1,outcome=quota,wechat=staging}": 1,
		"token_cache_hits_total{}":                                         1,
	} {
		if got["caddy_wx_auth_"+series] != want {
			t.Errorf("%s is %v, want %v", series, got["caddy_wx_auth_"+series], want)
		}
	}
}

// A client sends an appid of its own choice. That must not create a series.
func TestUnknownAppIsNone(t *testing.T) {
	m := New()
	m.Login("wx-of-a-client", Silent, problem.InvalidRequest)
	got := gather(t, m)
	if got["caddy_wx_auth_logins_total{app=none,kind=silent,outcome=invalid_request}"] != 1 {
		t.Error("the login was not counted")
	}
	for series := range got {
		if strings.Contains(series, "wx-of-a-client") {
			t.Error(series)
		}
	}
}

// During a reload, two configurations report values of one gauge. The value that would raise an
// alert wins.
func TestReadingsAreJoined(t *testing.T) {
	m := New()
	read := func(g *gauge, value float64, labels ...string) (remove func()) {
		return m.Read(g, func(yield func(float64, ...string)) { yield(value, labels...) })
	}
	read(FeedAge, 3, "wx.db")
	remove := read(FeedAge, 90, "wx.db")
	read(FeedAge, 1, "other.db")
	read(CacheEntries, 10)
	read(CacheEntries, 20)
	got := gather(t, m)
	if got["caddy_wx_auth_revocation_feed_age_seconds{store=wx.db}"] != 90 || got["caddy_wx_auth_revocation_feed_age_seconds{store=other.db}"] != 1 ||
		got["caddy_wx_auth_token_cache_entries{}"] != 30 {
		t.Errorf("got %v", got)
	}
	if remove(); gather(t, m)["caddy_wx_auth_revocation_feed_age_seconds{store=wx.db}"] != 3 {
		t.Error("the removed reading still counts")
	}
}
