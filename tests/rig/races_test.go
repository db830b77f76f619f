package rig

import (
	"os"
	"strings"
	"testing"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

// A data race belongs to the code that reads and writes, not to functions further out in the
// stack.
func TestRacesOfThisModuleAreToldFromOthers(t *testing.T) {
	report := func(read, write string) string {
		return "==================\nWARNING: DATA RACE\nRead at 0x00c0 by goroutine 1:\n  runtime.mapaccess1()\n      /go/map.go:1 +0x1\n  " + read +
			"()\n      /x.go:1 +0x1\n  github.com/wx-auth/caddy-wx-auth/caddymodule.forward()\n      /x.go:1 +0x1\n\nPrevious write at 0x00c0 by goroutine 2:\n  net/http.(*conn).serve()\n      /h.go:1\n  " +
			write + "()\n      /y.go:1 +0x2\n\nGoroutine 1 (running) created at:\n  github.com/wx-auth/caddy-wx-auth/caddymodule.start()\n      /z.go:1\n==================\n"
	}
	const own, caddys = "github.com/wx-auth/caddy-wx-auth/caddymodule/internal/gate.(*Gate).Enter", "github.com/caddyserver/caddy/v2/modules/caddyhttp.(*lengthReader).Read"
	for _, c := range []struct {
		read, write string
		ours        int
	}{{own, caddys, 1}, {caddys, own, 1}, {own, own, 1}, {caddys, caddys, 0}} {
		if n := len(races("starting\n" + report(c.read, c.write) + "going on\n")); n != c.ours {
			t.Errorf("%s, %s: %d reports, want %d", c.read, c.write, n, c.ours)
		}
	}
	if two := races(strings.Repeat(report(own, caddys), 2)); len(two) != 2 {
		t.Errorf("%d reports of two", len(two))
	}
}
