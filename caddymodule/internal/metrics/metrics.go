// Package metrics holds the metrics of the process. They live as long as the process: each
// configuration's registry gets the same collector, so a reload neither resets nor loses
// a count. No label contains a client's input.
package metrics

import (
	"cmp"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/counter"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

const namespace = "caddy_wx_auth"

// None is the label app for a login whose appid is not configured.
const None = "none"

// These are the kinds of logins. A request that could not be parsed counts as a phone login.
const (
	Phone  = "phone"
	Silent = "silent"
	Test   = "test"
)

// ok is the outcome of a success.
const ok = "ok"

// buckets are the upper bounds of durations in seconds.
var (
	callBuckets  = []float64{.025, .05, .1, .2, .5, 1, 2, 5, 10}
	storeBuckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5}
)

// Metrics holds the process's metrics. It implements [prometheus.Collector].
type Metrics struct {
	logins        *prometheus.CounterVec
	phoneCodes    *prometheus.CounterVec
	refreshes     *prometheus.CounterVec
	calls         *prometheus.CounterVec
	callTimes     *prometheus.HistogramVec
	fetches       *prometheus.CounterVec
	operations    *prometheus.CounterVec
	retries       *prometheus.CounterVec
	operationTime *prometheus.HistogramVec
	panics        prometheus.Counter
	build         prometheus.Gauge

	// Hits and Misses count the lookups in the caches of verified tokens.
	Hits, Misses *counter.Counter
	refused      map[problem.Code]*counter.Counter // refused requests, by code

	mu      sync.Mutex
	apps    map[string]bool
	wechats map[string]bool
	reads   map[*reading]bool
}

// New returns metrics at zero.
func New() *Metrics {
	count := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
	}
	times := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: namespace, Name: name, Help: help, Buckets: buckets}, labels)
	}
	m := &Metrics{
		logins:        count("logins_total", "Logins by outcome: ok, or the code of the refusal.", "app", "kind", "outcome"),
		phoneCodes:    count("phone_codes_total", "Phone codes by their fate; WeChat charges for each that was exchanged or lost.", "app", "fate"),
		refreshes:     count("refreshes_total", "Refreshes by outcome: ok, or the code of the refusal.", "outcome"),
		calls:         count("wechat_calls_total", "Requests to WeChat by the class of the answer.", "wechat", "app", "call", "class"),
		callTimes:     times("wechat_call_duration_seconds", "How long requests to WeChat took.", callBuckets, "wechat", "call"),
		fetches:       count("access_token_fetches_total", "Fetches of an access token by outcome: ok, or the class of the error.", "wechat", "app", "outcome"),
		operations:    count("store_operations_total", "Operations of the store by outcome.", "store", "operation", "outcome"),
		operationTime: times("store_operation_duration_seconds", "How long operations of the store took, with all retries.", storeBuckets, "store", "operation"),
		retries:       count("store_retries_total", "Transactions of the store that were run again.", "store", "operation"),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: namespace, Name: "panics_total", Help: "Requests that ended in a panic of the gateway's own code.",
		}),
		build: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: namespace, Name: "build_info", Help: "The version of caddy-wx-auth.", ConstLabels: prometheus.Labels{"version": version()},
		}),
		Hits: counter.New(), Misses: counter.New(), refused: make(map[problem.Code]*counter.Counter),
		apps: make(map[string]bool), wechats: make(map[string]bool), reads: make(map[*reading]bool),
	}
	m.build.Set(1)
	for _, code := range problem.Codes() {
		m.refused[code] = counter.New()
	}
	for _, code := range refreshCodes {
		m.refreshes.WithLabelValues(outcome(code))
	}
	m.serveApp(None)
	return m
}

// Serves creates the series of an app and its WeChat, with the value zero.
func (m *Metrics) Serves(app, name string) {
	name = cmp.Or(name, wechat.Own)
	m.mu.Lock()
	m.apps[app], m.wechats[name] = true, true
	m.mu.Unlock()
	m.serveApp(app)
	for _, fate := range []login.Fate{login.Exchanged, login.Replayed, login.Refused, login.Lost} {
		m.phoneCodes.WithLabelValues(app, string(fate))
	}
	for _, call := range calls {
		m.callTimes.WithLabelValues(name, string(call))
		for class := range wechat.KindRefused + 1 {
			m.calls.WithLabelValues(name, app, string(call), classOf(class))
			if call == wechat.CallToken && !class.Client() {
				m.fetches.WithLabelValues(name, app, classOf(class))
			}
		}
	}
}

func (m *Metrics) serveApp(app string) {
	for _, kind := range []string{Phone, Silent, Test} {
		for _, code := range loginCodes {
			m.logins.WithLabelValues(app, kind, outcome(code))
		}
	}
	for _, code := range testCodes {
		m.logins.WithLabelValues(app, Test, outcome(code))
	}
}

// Stores creates the series of a store, with the value zero.
func (m *Metrics) Stores(store string, operations []string) {
	for _, operation := range operations {
		m.operationTime.WithLabelValues(store, operation)
		for _, o := range []string{ok, "unavailable", "failed", "canceled"} {
			m.operations.WithLabelValues(store, operation, o)
		}
		m.retries.WithLabelValues(store, operation)
	}
}

// Login counts a login by the code of its refusal, which is empty if it succeeded.
func (m *Metrics) Login(app, kind string, code problem.Code) {
	m.logins.WithLabelValues(m.known(app), kind, outcome(code)).Inc()
}

// PhoneCode counts a phone code.
func (m *Metrics) PhoneCode(app string, fate login.Fate) {
	m.phoneCodes.WithLabelValues(m.known(app), string(fate)).Inc()
}

// Refresh counts a refresh by the code of its refusal, which is empty if it succeeded.
func (m *Metrics) Refresh(code problem.Code) { m.refreshes.WithLabelValues(outcome(code)).Inc() }

// Refused counts a refused request to the upstream, or to an endpoint that has no metric of its
// own.
func (m *Metrics) Refused(code problem.Code) { m.refused[code].Inc() }

// Panic counts a panic.
func (m *Metrics) Panic() { m.panics.Inc() }

// Call counts a request to WeChat. kind is zero if it succeeded.
func (m *Metrics) Call(name, app string, call wechat.Call, kind wechat.Kind, took time.Duration) {
	m.calls.WithLabelValues(name, m.known(app), string(call), classOf(kind)).Inc()
	m.callTimes.WithLabelValues(name, string(call)).Observe(took.Seconds())
}

// Fetch counts a fetch of an access token.
func (m *Metrics) Fetch(name, app string, kind wechat.Kind) {
	m.fetches.WithLabelValues(name, m.known(app), classOf(kind)).Inc()
}

// Operation counts an operation of a store, whose transaction was run again so many times.
func (m *Metrics) Operation(store, operation, outcome string, took time.Duration, again int) {
	m.retries.WithLabelValues(store, operation).Add(float64(again))
	m.operations.WithLabelValues(store, operation, outcome).Inc()
	m.operationTime.WithLabelValues(store, operation).Observe(took.Seconds())
}

// known returns the app if a configuration of this process has had it, and else None.
func (m *Metrics) known(app string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.apps[app] {
		return app
	}
	return None
}

func outcome(code problem.Code) string { return cmp.Or(string(code), ok) }

// classOf returns the class of an answer: "ok", or the kind of the error with
// underscores.
func classOf(kind wechat.Kind) string {
	if kind == 0 {
		return ok
	}
	return strings.ReplaceAll(kind.String(), " ", "_")
}

var calls = []wechat.Call{wechat.CallSession, wechat.CallToken, wechat.CallPhone}

// loginCodes and refreshCodes are the outcomes whose series exist from the start. testCodes are
// further outcomes of test logins. The empty code means success.
var (
	loginCodes = []problem.Code{
		"", problem.InvalidRequest, problem.BodyTooLarge, problem.UnsupportedMediaType, problem.TooEarly, problem.RateLimited,
		problem.LoginCodeInvalid, problem.PhoneCodeInvalid, problem.PhoneRequired, problem.RegistrationClosed, problem.UserDisabled,
		problem.UserBlocked, problem.NewOpenIDDenied, problem.WeChatUnavailable, problem.WeChatError, problem.WeChatTimeout,
		problem.Misconfigured, problem.DirectoryUnavailable, problem.StoreUnavailable, problem.InternalError,
	}
	testCodes = []problem.Code{problem.TestLoginInvalid, problem.TestLoginExpired, problem.TestLoginTaken}

	refreshCodes = []problem.Code{
		"", problem.InvalidRequest, problem.BodyTooLarge, problem.UnsupportedMediaType, problem.TooEarly, problem.RateLimited,
		problem.RefreshInvalid, problem.SessionEnded, problem.ReuseDetected, problem.UserDisabled,
		problem.Misconfigured, problem.DirectoryUnavailable, problem.StoreUnavailable, problem.InternalError,
	}
)

// module is the path under which a build lists this plugin.
const module = "github.com/wx-auth/caddy-wx-auth"

// version returns the version of this plugin in the build. It is "(devel)" for a build from a work
// tree.
func version() string {
	info, found := debug.ReadBuildInfo()
	if !found {
		return "unknown"
	}
	if info.Main.Path == module {
		return cmp.Or(info.Main.Version, "(devel)")
	}
	for _, dep := range info.Deps {
		if dep.Path == module {
			if dep.Replace != nil {
				return cmp.Or(dep.Replace.Version, "(devel)")
			}
			return dep.Version
		}
	}
	return "unknown"
}
