package api

import (
	"cmp"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
)

// Metrics are the metrics in Caddy's own metrics endpoint. No label contains a client's
// input.
type Metrics struct {
	logins    *prometheus.CounterVec // outcome: "ok" or the code of the refusal
	refreshes *prometheus.CounterVec // outcome: "ok" or the code of the refusal
	refusals  *prometheus.CounterVec // code: the reason of the refusal
	panics    prometheus.Counter
}

// NewMetrics registers the metrics of one configuration. feedAge returns the age of the
// revocation feed, or of the oldest one if there are several.
func NewMetrics(reg prometheus.Registerer, feedAge func(now time.Time) time.Duration) (*Metrics, error) {
	m := &Metrics{
		logins: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "wx_auth", Name: "logins_total", Help: "Logins by outcome.",
		}, []string{"outcome"}),
		refreshes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "wx_auth", Name: "refreshes_total", Help: "Refreshes by outcome.",
		}, []string{"outcome"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "wx_auth", Name: "refusals_total", Help: "Requests not let through, by reason.",
		}, []string{"code"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "wx_auth", Name: "panics_total", Help: "Requests that ended in a panic of the gateway's own.",
		}),
	}
	age := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "wx_auth", Name: "revocation_feed_age_seconds", Help: "Time since revocations of other replicas were last read.",
	}, func() float64 { return feedAge(time.Now()).Seconds() })
	var err error
	for _, c := range []prometheus.Collector{m.logins, m.refreshes, m.refusals, m.panics, age} {
		err = errors.Join(err, reg.Register(c))
	}
	return m, err
}

// loggedIn counts a login by the code of its refusal, which is empty if it succeeded.
func (m *Metrics) loggedIn(code problem.Code) { m.logins.WithLabelValues(outcome(code)).Inc() }

// refreshed counts a refresh by the code of its refusal, which is empty if it
// succeeded.
func (m *Metrics) refreshed(code problem.Code) { m.refreshes.WithLabelValues(outcome(code)).Inc() }

// Refused counts a request that was refused.
func (m *Metrics) Refused(code problem.Code) { m.refusals.WithLabelValues(string(code)).Inc() }

func outcome(code problem.Code) string { return cmp.Or(string(code), "ok") }
