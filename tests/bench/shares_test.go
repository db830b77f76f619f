//go:build linux

package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// parts are what a login is made of, by the functions below which the time is spent.
var parts = []struct {
	name  string
	below []string
}{
	{"writing to the store", []string{"internal/store.(*queue).run", "internal/store.(*Store).change"}},
	{"of that, the commits", []string{"database/sql.(*Tx).Commit"}},
	{"reading from the store", []string{"internal/store.(*Store).read"}},
	{"calling WeChat", []string{"wechat.(*Transport).exchange", "net/http.(*persistConn).readLoop", "net/http.(*persistConn).writeLoop"}},
	{"HTTP server", []string{"net/http.(*conn).serve"}},
	{"signing the token", []string{"internal/login.(*Minter).Mint"}},
	{"collecting garbage", []string{"runtime.gcBgMarkWorker", "runtime.gcAssistAlloc"}},
}

// shares says how the gateway's processor time was spent in the seconds after the call:
// for each of parts, its share in percent.
func shares(t testing.TB, c *rig.Caddy, seconds int) func() []string {
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
	return func() []string {
		t.Helper()
		got := <-done
		if got.err != nil {
			t.Fatal(got.err)
		}
		file := filepath.Join(t.TempDir(), "profile")
		if err := os.WriteFile(file, []byte(got.profile), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("go", "tool", "pprof", "-top", "-cum", "-nodecount=100000", "-nodefraction=0", "-edgefraction=0", file).Output()
		if err != nil {
			t.Fatal(err)
		}
		return sharesIn(string(out))
	}
}

// sharesIn reads a table of pprof's.
func sharesIn(top string) []string {
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
		for i, p := range parts {
			for _, name := range p.below {
				if strings.HasSuffix(f[5], name) {
					sums[i] += percent
				}
			}
		}
	}
	cells := make([]string, len(sums))
	for i, sum := range sums {
		cells[i] = fmt.Sprintf("%.0f %%", sum)
	}
	return cells
}
