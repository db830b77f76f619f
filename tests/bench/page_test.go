//go:build linux

package bench

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// page is a section of a Markdown page: a heading, texts and tables.
type page struct{ bytes.Buffer }

// introduction returns the beginning of the page.
func introduction(t *testing.T) []byte {
	p := new(page)
	p.WriteString("# Benchmarks\n\n")
	p.text("Made by " + made(t) + ". The load generator, the upstream, the simulator and the databases share these cores with the measured process.")
	p.text("Every comparison consists of pairs of runs, one with and one without the gateway, directly after each other and in alternating order. A ratio is the median over the pairs, followed in brackets by the bounds of the middle half. Processor time is that of the proxy's process, by the kernel's clock. If the brackets include 1.00, any cost is lost in the noise.")
	return p.Bytes()
}

// made returns how, when and where something was measured.
func made(t *testing.T) string {
	return fmt.Sprintf("`%s` on %s: %s, %d cores, %s, %s", command(), time.Now().UTC().Format(time.DateOnly), processor(), runtime.NumCPU(), kernel(t), runtime.Version())
}

// note adds how a section was made that was measured alone.
func (p *page) note(t *testing.T) { p.text("This section was made by " + made(t) + ".") }

// into replaces the section with the same heading, or adds the section at the end.
func (p *page) into(whole []byte) []byte {
	heading, _, _ := bytes.Cut(p.Bytes(), []byte("\n"))
	before, after, found := bytes.Cut(whole, append([]byte("\n"), append(heading, '\n')...))
	if !found {
		return append(whole, p.Bytes()...)
	}
	rest := []byte(nil)
	if next := bytes.Index(after, []byte("\n## ")); next >= 0 {
		rest = after[next+1:]
	}
	return slices.Concat(before, []byte("\n"), p.Bytes(), rest)
}

func command() string {
	c := "go test ./tests/bench"
	if run := flag.Lookup("test.run").Value.String(); run != "" {
		c += " -run '" + run + "'"
	}
	if *full {
		c += " -full"
	}
	if *write {
		c += " -write"
	}
	return c + " -v -timeout 60m"
}

func (p *page) heading(text string) { fmt.Fprintf(p, "## %s\n\n", text) }

// text adds a paragraph, with lines of at most 100 columns.
func (p *page) text(text string) {
	column := 0
	for i, word := range strings.Fields(text) {
		width := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case column+1+width > 100:
			p.WriteByte('\n')
			column = 0
		default:
			p.WriteByte(' ')
			column++
		}
		p.WriteString(word)
		column += width
	}
	p.WriteString("\n\n")
}

// table begins a table. Calls of row and of end must follow.
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

// A section that was measured alone replaces the one with the same heading, and the
// rest of the page stays.
func TestSectionTakesItsPlaceOnThePage(t *testing.T) {
	whole := []byte("# Page\n\n## A\n\nold a\n\n## B\n\nold b\n\n")
	section := func(heading, text string) *page {
		p := new(page)
		p.heading(heading)
		p.text(text)
		return p
	}
	for _, p := range []*page{section("B", "new b"), section("A", "new a"), section("C", "c")} {
		whole = p.into(whole)
	}
	if want := "# Page\n\n## A\n\nnew a\n\n## B\n\nnew b\n\n## C\n\nc\n\n"; string(whole) != want {
		t.Errorf("%q, want %q", whole, want)
	}
}
