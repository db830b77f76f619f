package tests

import (
	"bytes"
	"flag"
	"fmt"
	"html"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var writePictures = flag.Bool("write-pictures", false, "write the pictures of docs/pictures from their texts")

// These are the dimensions of a picture, in pixels.
const (
	pageWidth  = 840
	headHeight = 84
	lineHeight = 17
)

// step is an arrow from one actor to another, or a note at an actor.
type step struct {
	from, to int // equal for a note
	answer   bool
	lines    []string
}

func (s step) height() int { return 26 + lineHeight*len(s.lines) }

// picture is a sequence of steps between actors.
type picture struct {
	title  string
	actors []string
	steps  []step
}

// readPicture parses the text of a picture: the lines title, actors, note, and arrows.
func readPicture(text string) (p picture, err error) {
	for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
		word, rest, _ := strings.Cut(line, " ")
		switch word {
		case "title":
			p.title = rest
			continue
		case "actors":
			p.actors = strings.Split(rest, ", ")
			continue
		}
		ends, label, ok := strings.Cut(line, ": ")
		if !ok {
			return p, fmt.Errorf("%q is no step", line)
		}
		s := step{lines: strings.Split(label, `\n`)}
		if name, isNote := strings.CutPrefix(ends, "note "); isNote {
			s.from = slices.Index(p.actors, name)
			s.to = s.from
		} else {
			from, to, answer := strings.Cut(ends, " --> ")
			if !answer {
				from, to, _ = strings.Cut(ends, " -> ")
			}
			s.from, s.to, s.answer = slices.Index(p.actors, from), slices.Index(p.actors, to), answer
		}
		if s.from < 0 || s.to < 0 {
			return p, fmt.Errorf("%q names an actor that is not listed", line)
		}
		p.steps = append(p.steps, s)
	}
	return p, nil
}

// style is the same for all pictures, for a light and a dark page.
const style = `text { font: 13px system-ui, "PingFang SC", "Noto Sans CJK SC", sans-serif; fill: #1f2328; text-anchor: middle }
.page { fill: #ffffff } .box { fill: #eef2f7; stroke: #57606a } .note { fill: #fff8c5; stroke: #9a6700 }
.lane { stroke: #afb8c1; stroke-dasharray: 3 4 } .arrow { stroke: #0969da; fill: none } .answer { stroke-dasharray: 6 4 } .tip { fill: #0969da }
.title { font-weight: 600; font-size: 15px }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .page { fill: #0d1117 } .box { fill: #21262d; stroke: #8b949e } .note { fill: #3b2e00; stroke: #d29922 }
.lane { stroke: #484f58 } .arrow { stroke: #58a6ff } .tip { fill: #58a6ff }
}
`

// svg draws the picture.
func (p picture) svg() []byte {
	var b bytes.Buffer
	lane, height := pageWidth/len(p.actors), headHeight+20
	for _, s := range p.steps {
		height += s.height()
	}
	middle := func(actor int) int { return lane*actor + lane/2 }
	text := func(class string, x, y int, s string) {
		fmt.Fprintf(&b, "<text%s x=\"%d\" y=\"%d\">%s</text>\n", class, x, y, html.EscapeString(s))
	}
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" role=\"img\" aria-label=\"%s\">\n<style>\n%s</style>\n",
		pageWidth, height, pageWidth, html.EscapeString(p.title), style)
	fmt.Fprintf(&b, "<rect class=\"page\" width=\"%d\" height=\"%d\"/>\n", pageWidth, height)
	text(` class="title"`, pageWidth/2, 24, p.title)
	for i, name := range p.actors {
		fmt.Fprintf(&b, "<line class=\"lane\" x1=\"%d\" y1=\"70\" x2=\"%d\" y2=\"%d\"/>\n", middle(i), middle(i), height-10)
		fmt.Fprintf(&b, "<rect class=\"box\" x=\"%d\" y=\"40\" width=\"150\" height=\"30\" rx=\"5\"/>\n", middle(i)-75)
		text("", middle(i), 60, name)
	}
	y := headHeight
	for _, s := range p.steps {
		from, to := middle(s.from), middle(s.to)
		bottom := y + s.height() - 12
		if s.from == s.to {
			fmt.Fprintf(&b, "<rect class=\"note\" x=\"%d\" y=\"%d\" width=\"190\" height=\"%d\" rx=\"3\"/>\n", from-95, y, lineHeight*len(s.lines)+10)
		} else {
			way := 1
			if to < from {
				way = -1
			}
			class := "arrow"
			if s.answer {
				class = "arrow answer"
			}
			fmt.Fprintf(&b, "<line class=\"%s\" x1=\"%d\" y1=\"%d\" x2=\"%d\" y2=\"%d\"/>\n", class, from, bottom, to-6*way, bottom)
			fmt.Fprintf(&b, "<path class=\"tip\" d=\"M%d %d l%d -4 v8 z\"/>\n", to, bottom, -9*way)
		}
		for i, line := range s.lines {
			text("", (from+to)/2, y+lineHeight*(i+1), line)
		}
		y += s.height()
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// Each picture is drawn from its text, so that a change of the text changes the picture.
// go test ./tests -run Pictures -write-pictures draws them.
func TestPicturesAreDrawnFromTheirTexts(t *testing.T) {
	texts, err := filepath.Glob("../docs/pictures/*.txt")
	if err != nil || len(texts) < 3 {
		t.Fatalf("%d pictures, %v", len(texts), err)
	}
	for _, file := range texts {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		p, err := readPicture(string(text))
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		drawn := strings.TrimSuffix(file, ".txt") + ".svg"
		if *writePictures {
			if err := os.WriteFile(drawn, p.svg(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(drawn); err != nil || !bytes.Equal(got, p.svg()) {
			t.Errorf("%s is not what its text says: run with -write-pictures", drawn)
		}
	}
}
