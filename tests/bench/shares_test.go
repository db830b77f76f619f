//go:build linux

package bench

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// part is a part of the processor time: the time below some functions, minus the time
// below certain functions that they call.
type part struct {
	name  string
	below []string
	less  []string
}

var (
	garbageCollection = part{name: "collecting garbage", below: []string{"runtime.gcBgMarkWorker", "runtime.gcAssistAlloc", "runtime.bgsweep"}}
	systemCalls       = part{name: "system calls", below: []string{"internal/runtime/syscall/linux.Syscall6"}}
)

// loginParts are the parts of a login.
var loginParts = []part{
	{"writing to the store", []string{"internal/sqldb.(*queue).run", "internal/sqldb.(*Client).perform"}, nil},
	{"reading from the store", []string{"internal/sqldb.(*Client).read"}, nil},
	{"calling WeChat", []string{"wechat.(*Transport).exchange", "net/http.(*persistConn).readLoop", "net/http.(*persistConn).writeLoop"}, nil},
	{"HTTP server", []string{"net/http.(*conn).serve"}, nil},
	{"signing the token", []string{"internal/login.(*Minter).Mint"}, nil},
	garbageCollection,
}

// requestParts are the parts of a request with a known token.
var requestParts = []part{
	{"the directive `wx_auth`", []string{"caddymodule.(*Handler).ServeHTTP"}, []string{"caddymodule.forward"}},
	{"of that, checking the token", []string{"internal/gate.(*Gate).verify"}, nil},
	{"of that, its SHA-256", []string{"internal/token.sumString"}, nil},
	{"of that, setting the identity headers", []string{"internal/gate.(*Gate).SetIdentity"}, nil},
	{"Caddy's handlers", []string{"caddyhttp.(*Server).ServeHTTP", "caddymodule.forward"}, []string{"caddymodule.(*Handler).ServeHTTP"}},
	{"reading the request", []string{"net/http.(*conn).readRequest"}, nil},
	garbageCollection,
	systemCalls,
}

// shares profiles a Caddy in the seconds after the call. It returns a function that waits for
// the profile and returns the share of each part, in percent.
func shares(t testing.TB, c *rig.Caddy, seconds int, parts []part) func() []float64 {
	t.Helper()
	type taken struct {
		profile string
		err     error
	}
	done := make(chan taken, 1)
	go func() {
		time.Sleep(200 * time.Millisecond)
		profile, err := c.Admin(fmt.Sprintf("/debug/pprof/profile?seconds=%d", seconds))
		done <- taken{profile, err}
	}()
	return func() []float64 {
		t.Helper()
		got := <-done
		if got.err != nil {
			t.Fatal(got.err)
		}
		return sharesIn(pprof(t, got.profile, "-cum"), parts)
	}
}

// pprof returns the table in which pprof shows a profile.
func pprof(t testing.TB, profile string, options ...string) string {
	t.Helper()
	options = append([]string{"tool", "pprof", "-top", "-nodecount=100000", "-nodefraction=0", "-edgefraction=0"}, options...)
	out, err := exec.Command("go", append(options, keep(t, profile))...).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// keep writes a profile to a file.
func keep(t testing.TB, profile string) string {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "profile")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(profile); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// spent returns how much processor time of a request goes into each of requestParts, in
// microseconds.
func (l load) spent(t testing.TB, c *rig.Caddy, seconds int) []float64 {
	t.Helper()
	taken := shares(t, c, seconds, requestParts)
	each := micros(l.run(t, c).perRequest)
	parts := taken()
	for i := range parts {
		parts[i] *= each / 100
	}
	return append(parts, each)
}

// sharesIn reads the parts' shares from pprof's table.
func sharesIn(top string, parts []part) []float64 {
	sums := make([]float64, len(parts))
	for line := range strings.Lines(top) {
		f := strings.Fields(line)
		if len(f) < 6 || !strings.HasSuffix(f[4], "%") {
			continue
		}
		percent, err := strconv.ParseFloat(strings.TrimSuffix(f[4], "%"), 64)
		if err != nil {
			continue
		}
		named := func(list []string) bool {
			return slices.ContainsFunc(list, func(name string) bool { return strings.HasSuffix(f[5], name) })
		}
		for i, p := range parts {
			if named(p.below) {
				sums[i] += percent
			}
			if named(p.less) {
				sums[i] -= percent
			}
		}
	}
	return sums
}
