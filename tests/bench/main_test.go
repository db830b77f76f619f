//go:build linux

package bench

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

var (
	full  = flag.Bool("full", false, "measure with as many requests as the figures need; takes half an hour")
	write = flag.Bool("write", false, "write the table to BENCHMARKS.md")
)

func TestMain(m *testing.M) { os.Exit(rig.Main(m)) }

// often is how often something is done: in a full run, and in one that only shows
// that it works.
func often(fully, briefly int) int {
	if *full {
		return fully
	}
	return briefly
}

// TestTable measures everything, section by section, and prints the table.
func TestTable(t *testing.T) {
	p := newPage(t)
	for _, section := range []struct {
		name    string
		measure func(*testing.T, *page)
	}{{"proxied", proxied}, {"inprocess", inProcess}, {"flood", flood}, {"logins", logins}, {"memory", memory}, {"growth", growth}} {
		t.Run(section.name, func(t *testing.T) { section.measure(t, p) })
	}
	if t.Failed() {
		return
	}
	t.Log("\n" + p.String())
	if *write {
		if err := os.WriteFile(filepath.Join("..", "..", "BENCHMARKS.md"), p.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
