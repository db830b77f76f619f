package api

import (
	"context"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/metrics"
)

// brokenStore is a store whose driver panics.
type brokenStore struct{ Store }

func (brokenStore) Probe(context.Context) error { panic("in the driver") }

// A health check writes to the store outside of a request. If that panics, the process
// must go on and the check must fail, and the panic is logged and counted like any
// other.
func TestPanicInAHealthCheck(t *testing.T) {
	core, logs := observer.New(zapcore.DebugLevel)
	s := &Server{Log: zap.New(core), Metrics: metrics.New(), Store: brokenStore{}}
	if err := new(health).check(t.Context(), s.probe); err == nil {
		t.Error("it passed")
	}
	if n := logs.FilterMessage("panic in a health check").Len(); n != 1 {
		t.Errorf("%d log lines", n)
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(s.Metrics)
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		if m.GetName() == "caddy_wx_auth_panics_total" && m.GetMetric()[0].GetCounter().GetValue() != 1 {
			t.Errorf("counted %v", m)
		}
	}
}
