package caddymodule

import (
	"errors"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/store"
)

// A health check writes to the store beside requests. If that panics, the process goes
// on, the check fails, and the panic is logged and counted like any other.
func TestPanicInAHealthCheck(t *testing.T) {
	s := serve(t, "")
	site := &site{log: s.h.site.log, metrics: s.h.site.metrics} // without a store
	var h health
	if err := h.check(t.Context(), site.probe); !errors.Is(err, store.ErrUnavailable) {
		t.Error(err)
	}
	if n := s.logs.FilterMessage("panic in a health check").Len(); n != 1 {
		t.Errorf("%d log lines", n)
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(site.metrics.panics)
	if counted, err := reg.Gather(); err != nil || counted[0].GetMetric()[0].GetCounter().GetValue() != 1 {
		t.Errorf("counted %v, %v", counted, err)
	}
}
