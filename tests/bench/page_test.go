//go:build linux

package bench

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
)

// page is a Markdown page of tables.
type page struct{ bytes.Buffer }

func newPage(t *testing.T) *page {
	p := new(page)
	fmt.Fprintf(p, "# Benchmarks\n\nMade by `%s` on %s: %s, %d cores, %s, %s. Load generator, upstream, simulator and "+
		"databases share these cores with what is measured.\n\n",
		command(), time.Now().UTC().Format(time.DateOnly), processor(), runtime.NumCPU(), kernel(t), runtime.Version())
	p.text("Every comparison is taken in pairs, with and without the gateway right after each other, in changing order; a ratio is the median over the pairs, " +
		"with the middle half of them in brackets. Processor time is that of the proxy's process, by the kernel's clock. Where the brackets hold 1.00, no cost can be told from noise.")
	return p
}

func command() string {
	c := "go test ./tests/bench"
	if *full {
		c += " -full"
	}
	if *write {
		c += " -write"
	}
	return c + " -v -timeout 60m"
}

func (p *page) heading(text string) { fmt.Fprintf(p, "## %s\n\n", text) }

func (p *page) text(text string) { fmt.Fprintf(p, "%s\n\n", text) }

// table begins a table; rows follow, and a call of end.
func (p *page) table(columns ...string) {
	p.row(columns...)
	p.row(strings.Split(strings.Repeat("---,", len(columns)-1)+"---", ",")...)
}

func (p *page) row(cells ...string) { fmt.Fprintf(p, "| %s |\n", strings.Join(cells, " | ")) }

func (p *page) end() { p.WriteByte('\n') }

func processor() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return err.Error()
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "an unnamed processor"
}

func kernel(t *testing.T) string {
	out, err := exec.Command("uname", "-sr").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}
