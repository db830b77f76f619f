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
	write = flag.Bool("write", false, "write the tables to docs/benchmarks.md")
)

func TestMain(m *testing.M) { os.Exit(rig.Main(m)) }

// often returns the first number in a full run, and the second in a run that only shows
// that everything works.
func often(fully, briefly int) int {
	if *full {
		return fully
	}
	return briefly
}

// TestTable measures everything, section by section, and prints the tables. With -run
// only some sections are measured; -write then replaces only these on the page.
func TestTable(t *testing.T) {
	sections := []struct {
		name    string
		measure func(*testing.T, *page)
	}{{"proxied", proxied}, {"inprocess", inProcess}, {"flood", flood}, {"logins", logins}, {"turnarounds", turnarounds}, {"memory", memory}, {"growth", growth}, {"users", users}}
	var measured []*page
	for _, section := range sections {
		t.Run(section.name, func(t *testing.T) {
			p := new(page)
			measured = append(measured, p)
			section.measure(t, p)
		})
	}
	if t.Failed() {
		return
	}
	whole := introduction(t)
	if len(measured) < len(sections) {
		text, err := os.ReadFile(file)
		if err != nil && *write {
			t.Fatal(err)
		}
		whole = text
	}
	for _, p := range measured {
		t.Log("\n" + p.String())
		if len(measured) < len(sections) {
			p.note(t)
		}
		whole = p.into(whole)
	}
	if *write {
		if err := os.WriteFile(file, whole, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

var file = filepath.Join("..", "..", "docs", "benchmarks.md")
