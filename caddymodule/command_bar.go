package caddymodule

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

// bar is a line on a terminal that is written over and over; nothing, where
// there is no terminal.
type bar struct {
	out   *os.File // nil: none
	shown time.Time
}

func newBar(out *os.File) *bar {
	if !term.IsTerminal(int(out.Fd())) {
		out = nil
	}
	return &bar{out: out}
}

const eraseLine = "\r\x1b[2K"

// show writes the line, at most ten times a second.
func (b *bar) show(format string, args ...any) {
	if b.out == nil || time.Since(b.shown) < 100*time.Millisecond {
		return
	}
	b.shown = time.Now()
	fmt.Fprintf(b.out, eraseLine+format, args...)
}

// clear takes the line away.
func (b *bar) clear() {
	if b.out != nil {
		fmt.Fprint(b.out, eraseLine)
	}
}

// blocks draws a part of a whole.
func blocks(part, whole int64) string {
	const width = 30
	full := width
	if whole > 0 {
		full = int(min(part, whole) * width / whole)
	}
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", width-full) + "]"
}
