package tests

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// document is a parsed Markdown file.
type document struct {
	path     string // from the top of the repository, with slashes
	headings []string
	anchors  []string
	prose    map[int]string // the lines outside code and tables, by their numbers
	rows     []int          // how many rows each table has
	blocks   []codeBlock
	links    []string
}

// codeBlock is the text between two fences.
type codeBlock struct {
	line           int
	language, text string
}

// documents returns all Markdown files, by path.
func documents(t testing.TB) map[string]*document {
	t.Helper()
	found := make(map[string]*document)
	for name, text := range filesOf(t, ".md", 20) {
		found[name] = readDocument(name, text)
	}
	return found
}

var (
	fence      = regexp.MustCompile("^( *)```(\\w*)")
	anyLink    = regexp.MustCompile(`\]\(([^()\s]+(?:\([^()\s]*\)[^()\s]*)*)\)`)
	inlineCode = regexp.MustCompile("`[^`]*`")

	// A Chinese heading has the name of the English one, too, if log lines lead to it.
	explicitAnchor = regexp.MustCompile(`(?m)^<a id="([^"]+)"></a>$`)
)

func readDocument(name, text string) *document {
	d := &document{path: name, prose: make(map[int]string)}
	inTable, indent, inCode := false, "", false
	for i, line := range strings.Split(text, "\n") {
		if inCode {
			if strings.TrimSpace(line) == "```" {
				inCode = false
				continue
			}
			last := &d.blocks[len(d.blocks)-1]
			last.text += strings.TrimPrefix(line, indent) + "\n"
			continue
		}
		if m := fence.FindStringSubmatch(line); m != nil {
			inCode, indent = true, m[1]
			d.blocks = append(d.blocks, codeBlock{line: i + 1, language: m[2]})
			continue
		}
		for _, m := range anyLink.FindAllStringSubmatch(inlineCode.ReplaceAllString(line, ""), -1) {
			d.links = append(d.links, m[1])
		}
		if strings.HasPrefix(strings.TrimSpace(line), "|") {
			if !inTable {
				d.rows = append(d.rows, 0)
			}
			inTable = true
			d.rows[len(d.rows)-1]++
			continue
		}
		inTable = false
		d.prose[i+1] = line
		if m := explicitAnchor.FindStringSubmatch(line); m != nil {
			d.anchors = append(d.anchors, m[1])
		}
		if hashes, title, ok := strings.Cut(line, " "); ok && hashes != "" && strings.Trim(hashes, "#") == "" {
			d.headings = append(d.headings, hashes)
			d.anchors = append(d.anchors, anchor(title))
		}
	}
	return d
}

// anchor returns the name that GitHub gives a heading.
func anchor(title string) string {
	title = anyLink.ReplaceAllString(title, "]")
	var name strings.Builder
	for _, r := range strings.ToLower(title) {
		switch {
		case r == ' ':
			name.WriteByte('-')
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			name.WriteRune(r)
		}
	}
	return name.String()
}

// A reader follows the links of the documents. Each leads to a page that exists, and to a
// place on it that exists.
func TestLinksOfDocumentsResolve(t *testing.T) {
	all := documents(t)
	for name, d := range all {
		for _, link := range d.links {
			if strings.Contains(link, "://") || strings.HasPrefix(link, "mailto:") {
				continue
			}
			file, place, _ := strings.Cut(link, "#")
			target := name
			if file != "" {
				target = path.Join(path.Dir(name), file)
			}
			if _, err := os.Stat(filepath.Join("..", filepath.FromSlash(target))); err != nil {
				t.Errorf("%s: %s does not exist", name, link)
				continue
			}
			if place != "" && (all[target] == nil || !slices.Contains(all[target].anchors, place)) {
				t.Errorf("%s: %s has no such heading", name, link)
			}
		}
	}
}

// twin returns the path of a document's Chinese twin; empty: it needs none.
func twin(name string) string {
	dir, file := path.Split(name)
	switch {
	case dir == "docs/":
		return "docs/zh/" + file
	case name == "SECURITY.md":
		return "docs/zh/security.md"
	case file == "README.md" && dir != "docs/zh/":
		return strings.TrimSuffix(name, ".md") + ".zh-CN.md"
	}
	return ""
}

// A Chinese page says what the English page says: it has the same headings, and each table has
// the same number of rows.
func TestChinesePagesAreComplete(t *testing.T) {
	all, pairs := documents(t), 0
	for name, en := range all {
		other := twin(name)
		if other == "" {
			continue
		}
		zh := all[other]
		if zh == nil {
			t.Errorf("%s is missing", other)
			continue
		}
		pairs++
		if !slices.Equal(en.headings, zh.headings) {
			t.Errorf("%s has the headings %v, %s has %v", name, en.headings, other, zh.headings)
		}
		if !slices.Equal(en.rows, zh.rows) {
			t.Errorf("the tables of %s have %v rows, those of %s %v", name, en.rows, other, zh.rows)
		}
	}
	if pairs < 20 {
		t.Errorf("only %d pairs", pairs)
	}
}

// columns returns the width of a line on a terminal.
func columns(line string) (n int) {
	for _, r := range line {
		if n++; r >= 0x2e80 {
			n++ // Chinese characters and punctuation are twice as wide
		}
	}
	return n
}

// Pages are also read in terminals and in diffs. Chinese lines may end only after a sentence,
// because a line break is shown as a space.
func TestDocumentsHaveShortLines(t *testing.T) {
	for name, d := range documents(t) {
		if strings.HasPrefix(name, "docs/design/") {
			continue
		}
		most := 100
		if strings.HasPrefix(name, "docs/zh/") || strings.HasSuffix(name, ".zh-CN.md") {
			most = 120
		}
		for number, line := range d.prose {
			if n := columns(line); n > most {
				t.Errorf("%s:%d has %d columns, of at most %d", name, number, n, most)
			}
		}
	}
}

// Everybody reads the README first, so it stays short. The pages have the rest.
func TestReadmeIsShort(t *testing.T) {
	for _, readme := range []string{"README.md", "README.zh-CN.md"} {
		text, err := os.ReadFile("../" + readme)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(text), "\n"); n > 200 {
			t.Errorf("%s has %d lines, of at most 200", readme, n)
		}
	}
}

// Readers copy the Caddyfiles of the pages as they are, so these must be formatted, and Caddy
// must accept them.
func TestCaddyfilesOfDocumentsAdapt(t *testing.T) {
	t.Parallel()
	c, tried := rig.NewCaddy(t), make(map[string]bool) // most Chinese pages have the same blocks
	for name, d := range documents(t) {
		if strings.HasPrefix(name, "docs/design/") {
			continue
		}
		for _, b := range d.blocks {
			if b.language != "caddyfile" || strings.Contains(b.text, "rate_limit {") { // a plugin that is not in this build
				continue
			}
			text := b.text
			if tried[text] {
				continue
			}
			tried[text] = true
			if first, _, _ := strings.Cut(text, "\n"); strings.HasPrefix(first, "wx_auth") {
				text = "example.com {\n\t" + strings.TrimSuffix(strings.ReplaceAll(text, "\n", "\n\t"), "\t") + "}\n"
				text = strings.ReplaceAll(text, "\n\t\n", "\n\n")
			}
			file := filepath.Join(c.Home, "Caddyfile.page")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := c.Command("adapt", "--adapter", "caddyfile", "--config", file)
			if err != nil || strings.Contains(out, "not formatted") {
				t.Errorf("%s:%d: %v\n%s\n%s", name, b.line, err, out, text)
			}
		}
	}
	if len(tried) < 15 {
		t.Errorf("only %d blocks", len(tried))
	}
}
