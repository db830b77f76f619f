//go:build linux

package bench

import (
	"crypto/rand"
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// beside is good traffic, measured alone and next to a flood.
type beside struct {
	alone, flooded measured
	flood          float64 // answered requests of the flood per second
}

func (b beside) p50() float64 { return float64(b.flooded.p50) / float64(b.alone.p50) }
func (b beside) p99() float64 { return float64(b.flooded.p99) / float64(b.alone.p99) }

// flood measures how much good traffic suffers from other clients' garbage tokens. The plain
// Caddy answers the same requests without looking at their tokens, which shows how much that
// many requests cost on this machine in any case.
func flood(t *testing.T, p *page) {
	const goods, floods = 16, 32
	n, requests := often(5, 1), often(2000, 32)
	p.heading("Good traffic during a flood of garbage tokens")
	p.text(fmt.Sprintf("%d clients with one good token send a request every 16 ms: alone and, right before or after, while %d others send a bad token with each request. These are %d pairs of runs of %d good requests. The plain Caddy answers the same flood. A ratio compares good requests during the flood with good requests alone. A token with our header and a forged signature costs a signature check, because nothing cheaper distinguishes it from a good one.",
		goods, floods, n, requests))
	p.table("garbage", "garbage/s, plain", "with the gateway", "good alone with the gateway, p50", "p99", "p50 ratio, plain", "with the gateway", "p99 ratio, plain", "with the gateway", "p99 during the flood, gateway to plain")
	c := newCouple(t, "ES256")
	defer c.stop()
	good := c.warm(t, "/respond/orders", 1, goods, requests)
	good.every = 16 * time.Millisecond
	header, _, _ := strings.Cut(c.token, ".")
	for _, kind := range []struct {
		name  string
		token func() string
	}{
		{"tokens with another header", func() string { return rand.Text() + "." + rand.Text() + "." + rand.Text() }},
		{"our header, a forged signature", func() string {
			var signature [64]byte
			rand.Read(signature[:])            // never fails
			signature[0], signature[32] = 0, 0 // so that both numbers are below the order of the curve
			return header + "." + encode([]byte(`{"sub":"`+rand.Text()+`"}`)) + "." + encode(signature[:])
		}},
	} {
		garbage := make([][]byte, often(4096, 64))
		for i := range garbage {
			garbage[i] = get("/respond/orders", kind.token())
		}
		for _, every := range []time.Duration{16 * time.Millisecond, 0} {
			l := load{clients: floods, requests: math.MaxInt, every: every, request: func(i int) []byte { return garbage[i%len(garbage)] }}
			name := kind.name + fmt.Sprintf(", %.0f/s", floods/every.Seconds())
			if every == 0 {
				name = kind.name + ", as fast as they are answered"
			}
			var plain, gateway []beside
			for i := range n + 1 {
				var a, b beside
				for _, second := range []bool{i%2 == 1, i%2 == 0} {
					if second {
						b = good.beside(t, c.gateway, l, http.StatusUnauthorized, i%2 == 0)
					} else {
						a = good.beside(t, c.plain, l, http.StatusOK, i%2 == 0)
					}
				}
				if i > 0 {
					plain, gateway = append(plain, a), append(gateway, b)
				}
			}
			cells := besideCells(name, plain, gateway)
			t.Log(strings.Join(cells, "  "))
			p.row(cells...)
		}
	}
	p.end()
}

// beside runs good traffic twice: alone, and next to a flood that is answered with that
// status.
func (l load) beside(t testing.TB, c *rig.Caddy, flood load, status int, first bool) (b beside) {
	t.Helper()
	flood.status = status
	for _, flooded := range []bool{first, !first} {
		if !flooded {
			b.alone = l.run(t, c)
			continue
		}
		conns := flood.dial(t, c)
		defer hangUp(conns)
		stop, answered, start := make(chan struct{}), make(chan int, 1), time.Now()
		go func() {
			took, err := flood.drive(conns, stop)
			if err != nil {
				t.Error(err)
			}
			answered <- len(took)
		}()
		time.Sleep(time.Duration(often(100, 10)) * time.Millisecond) // until the flood is under way
		b.flooded = l.run(t, c)
		close(stop)
		b.flood = float64(<-answered) / time.Since(start).Seconds()
	}
	return b
}

func besideCells(name string, plain, gateway []beside) []string {
	of := func(list []beside, f func(beside) float64) spread {
		values := make([]float64, len(list))
		for i := range list {
			values[i] = f(list[i])
		}
		return spreadOf(values)
	}
	rate := func(list []beside) string {
		return fmt.Sprintf("%.0f", of(list, func(b beside) float64 { return b.flood }).median)
	}
	alone := func(f func(measured) time.Duration) string {
		return fmt.Sprintf("%.0f µs", of(gateway, func(b beside) float64 { return micros(f(b.alone)) }).median)
	}
	both := make([]float64, len(plain))
	for i := range both {
		both[i] = float64(gateway[i].flooded.p99) / float64(plain[i].flooded.p99)
	}
	return []string{
		name, rate(plain), rate(gateway), alone(func(m measured) time.Duration { return m.p50 }), alone(func(m measured) time.Duration { return m.p99 }),
		of(plain, beside.p50).ratio(), of(gateway, beside.p50).ratio(), of(plain, beside.p99).ratio(), of(gateway, beside.p99).ratio(), spreadOf(both).ratio(),
	}
}
