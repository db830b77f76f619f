//go:build linux

package bench

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// pairs are runs of one load, each on a plain Caddy and on one with the gateway.
type pairs struct{ plain, gateway []measured }

// compare runs a load on both, pair by pair. The first pair does not count. rest is called
// before each run on the gateway.
func compare(t testing.TB, plain, gateway *rig.Caddy, n int, l load, rest func()) pairs {
	t.Helper()
	var p pairs
	for i := range n + 1 {
		var a, b measured
		for _, second := range []bool{i%2 == 1, i%2 == 0} {
			if second {
				rest()
				b = l.run(t, gateway)
			} else {
				a = l.run(t, plain)
			}
		}
		if i > 0 {
			p.plain, p.gateway = append(p.plain, a), append(p.gateway, b)
		}
	}
	return p
}

// spread is the median of some values, and the bounds of their middle half.
type spread struct{ low, median, high float64 }

func spreadOf(values []float64) spread {
	slices.Sort(values)
	n := len(values)
	return spread{values[n/4], values[n/2], values[(3*n-1)/4]}
}

func (s spread) ratio() string { return fmt.Sprintf("%.2f [%.2f–%.2f]", s.median, s.low, s.high) }

func (s spread) micros() string {
	return fmt.Sprintf("%+.1f µs [%+.1f – %+.1f]", s.median, s.low, s.high)
}

// of returns the spread of f over all pairs.
func (p pairs) of(f func(plain, gateway measured) float64) spread {
	values := make([]float64, len(p.plain))
	for i := range values {
		values[i] = f(p.plain[i], p.gateway[i])
	}
	return spreadOf(values)
}

func (p pairs) added() spread {
	return p.of(func(a, b measured) float64 { return micros(b.perRequest - a.perRequest) })
}

func (p pairs) processor() spread {
	return p.of(func(a, b measured) float64 { return float64(b.perRequest) / float64(a.perRequest) })
}

// cells returns the columns of a comparison; see pairColumns.
func (p pairs) cells(name string) []string {
	plain := p.of(func(a, _ measured) float64 { return micros(a.perRequest) }).median
	return []string{
		name, fmt.Sprintf("%.1f µs", plain), p.added().micros(), p.processor().ratio(),
		p.of(func(a, b measured) float64 { return b.perSecond / a.perSecond }).ratio(),
		p.of(func(a, b measured) float64 { return float64(b.p50) / float64(a.p50) }).ratio(),
		p.of(func(a, b measured) float64 { return float64(b.p99) / float64(a.p99) }).ratio(),
	}
}

var pairColumns = []string{"path", "plain, CPU per request", "added CPU", "CPU ratio", "requests/s ratio", "p50 ratio", "p99 ratio"}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }
