package tests

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// section is a part of a page below a heading of the second level.
type section struct {
	title string
	lines []string
}

// sections splits a page of docs into its sections.
func sections(t testing.TB, page string) (all []section) {
	t.Helper()
	text, err := os.ReadFile("../docs/" + page)
	if err != nil {
		t.Fatal(err)
	}
	inCode := false
	for _, line := range strings.Split(string(text), "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			inCode = !inCode
		}
		if title, ok := strings.CutPrefix(line, "## "); ok && !inCode {
			all = append(all, section{title: title})
		} else if len(all) > 0 {
			last := &all[len(all)-1]
			last.lines = append(last.lines, line)
		}
	}
	return all
}

// sectionOf returns the section with that title.
func sectionOf(t testing.TB, page, title string) section {
	t.Helper()
	for _, s := range sections(t, page) {
		if s.title == title {
			return s
		}
	}
	t.Fatalf("docs/%s has no section %q", page, title)
	return section{}
}

// known returns the subdirectives that a block knows: Caddy lists them when it meets an
// unknown one.
func known(t testing.TB, c *rig.Caddy, before, after string) []string {
	t.Helper()
	file := filepath.Join(c.Home, "Caddyfile.known")
	if err := os.WriteFile(file, []byte("example.com {\nwx_auth wx0123456789abcdef 0123456789abcdef0123456789abcdef {\n"+before+"\nno_such_thing\n"+after+"\n}\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, _ := c.Command("adapt", "--adapter", "caddyfile", "--config", file)
	m := regexp.MustCompile(`unknown subdirective \\?"no_such_thing\\?": [a-z_ ]+ knows ([a-z_, ]+), at`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("%s: %s", before, out)
	}
	return strings.Split(m[1], ", ")
}

var inCell = regexp.MustCompile("^\\| `([^`]+)`")

// The reference has a section for each subdirective, and a row for each subdirective in its
// block. It has none that Caddy does not know.
func TestReferenceHasEachSubdirective(t *testing.T) {
	t.Parallel()
	c := rig.NewCaddy(t)
	names := known(t, c, "", "")
	inBlocks := map[string][]string{
		"app":     known(t, c, "app a b {", "}"),
		"store":   known(t, c, "store sqlite:/x/y.db {", "}"),
		"users":   append(known(t, c, "users webhook http://localhost:1/x {", "}"), known(t, c, "users sql postgres://localhost/x {", "}")...),
		"token":   known(t, c, "token {", "}"),
		"session": known(t, c, "session {", "}"),
		"wechat":  known(t, c, "wechat {", "}"),
	}
	inBlocks["app"] = append(inBlocks["app"], known(t, c, "app a b {\npush t k {", "}\n}")...)
	for _, page := range rig.InBothLanguages("caddyfile.md") {
		overview := rig.ReadmeBlock(t, "../docs/"+page, "wx_auth [<matcher>]")
		var titles []string
		for _, s := range sections(t, page) {
			titles = append(titles, s.title)
			if !slices.Contains(names, s.title) {
				continue
			}
			var rows []string
			for _, line := range s.lines {
				if m := inCell.FindStringSubmatch(line); m != nil && len(inBlocks[s.title]) > 0 {
					name := strings.Fields(strings.TrimPrefix(m[1], "push … { "))[0]
					rows = append(rows, name)
					if !slices.Contains(inBlocks[s.title], name) {
						t.Errorf("docs/%s: %s knows no %s", page, s.title, name)
					}
				}
			}
			for _, name := range inBlocks[s.title] {
				if !slices.Contains(rows, name) {
					t.Errorf("docs/%s, %s: there is no row for %s", page, s.title, name)
				}
			}
		}
		for _, name := range names {
			if !slices.Contains(titles, name) {
				t.Errorf("docs/%s has no section %s", page, name)
			}
			if !regexp.MustCompile(`(?m)^\t` + name + `\b`).MatchString(overview) {
				t.Errorf("the overview of docs/%s lacks %s", page, name)
			}
			for _, inner := range inBlocks[name] {
				if !regexp.MustCompile(`(?m)^\t\t+` + inner + `\b`).MatchString(overview) {
					t.Errorf("the overview of docs/%s lacks %s { %s }", page, name, inner)
				}
			}
		}
	}
}

// A section repeats a default. It must equal the default in the block that is compared with
// the code.
func TestReferenceRepeatsTheDefaults(t *testing.T) {
	for _, page := range rig.InBothLanguages("caddyfile.md") {
		block := rig.ReadmeBlock(t, "../docs/"+page, "\tendpoints /auth/wx\n")
		within, checked := "", 0
		for _, line := range strings.Split(block, "\n") {
			name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			switch {
			case strings.HasPrefix(line, "wx_auth"), name == "}", name == "", name == "identity", name == "audience":
				continue
			case value == "{":
				within = name
				continue
			}
			title, of := name, "`"+value+"`"
			if strings.HasPrefix(line, "\t\t") {
				title = within
			}
			found := slices.ContainsFunc(sectionOf(t, page, title).lines, func(line string) bool {
				if title == name {
					return strings.Contains(line, "`"+name+" ") && strings.Contains(line, of)
				}
				cells := strings.Split(strings.ReplaceAll(line, `\|`, ""), "|")
				return strings.HasPrefix(line, "| `"+name+" ") && len(cells) > 2 && strings.Contains(cells[2], of)
			})
			if checked++; !found {
				t.Errorf("docs/%s, %s: %s is not given as the default of %s", page, title, value, name)
			}
		}
		if checked < 15 {
			t.Errorf("only %d defaults", checked)
		}
	}
}

// help returns the subcommands of a command, and its flags.
func help(t testing.TB, c *rig.Caddy, words ...string) (below, flags []string) {
	t.Helper()
	out, err := c.Command(append(append([]string{"wx-auth"}, words...), "--help")...)
	if err != nil {
		t.Fatalf("%v: %s", words, out)
	}
	_, list, _ := strings.Cut(out, "Available Commands:\n")
	list, _, _ = strings.Cut(list, "\n\n")
	for _, line := range strings.Split(list, "\n") {
		if name, _, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			below = append(below, name)
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^ +(?:-\w, +)?--([a-z-]+)`).FindAllStringSubmatch(out[strings.Index(out, "\nFlags:"):], -1) {
		if m[1] != "help" {
			flags = append(flags, m[1])
		}
	}
	return below, flags
}

// An operator finds each command on the page, with each of its flags. The page has no command
// that does not exist.
func TestPageHasEachCommand(t *testing.T) {
	t.Parallel()
	c := rig.NewCaddy(t)
	commands, flags := map[string]bool{}, map[string]bool{}
	var walk func(words ...string)
	walk = func(words ...string) {
		below, its := help(t, c, words...)
		for _, f := range its {
			flags[f] = true
		}
		for _, name := range below {
			walk(append(slices.Clone(words), name)...)
		}
		if len(below) == 0 {
			commands[strings.Join(words, " ")] = true
		}
	}
	walk()
	if len(commands) < 10 || len(flags) < 10 {
		t.Fatalf("%v %v", commands, flags)
	}
	for _, page := range rig.InBothLanguages("operations.md") {
		text := "" // the link to the section has the same title
		for _, s := range sections(t, page) {
			if strings.Contains(strings.Join(s.lines, "\n"), "`wx-auth doctor`") {
				text = strings.Join(s.lines, "\n")
			}
		}
		for name := range commands {
			if !regexp.MustCompile("`wx-auth " + name + "[` ]").MatchString(text) {
				t.Errorf("docs/%s lacks wx-auth %s", page, name)
			}
		}
		for name := range flags {
			if !regexp.MustCompile("`--" + name + "[` ]").MatchString(text) {
				t.Errorf("docs/%s lacks --%s", page, name)
			}
		}
		for _, m := range regexp.MustCompile("`wx-auth ([a-z ]+?) ?[`<[]").FindAllStringSubmatch(text, -1) {
			if name := m[1]; !commands[name] && !commands[strings.Split(name, " ")[0]] {
				t.Errorf("docs/%s has wx-auth %s, which does not exist", page, name)
			}
		}
		for _, m := range regexp.MustCompile("`--([a-z-]+)").FindAllStringSubmatch(text, -1) {
			if !flags[m[1]] {
				t.Errorf("docs/%s has --%s, which does not exist", page, m[1])
			}
		}
	}
}

// pluginSource returns the plugin's Go files without tests, by path.
func pluginSource(t testing.TB) map[string]string {
	t.Helper()
	files := make(map[string]string)
	err := filepath.WalkDir("../caddymodule", func(file string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(file) != ".go" || strings.HasSuffix(file, "_test.go") || strings.Contains(file, "wechattest") {
			return err
		}
		text, err := os.ReadFile(file)
		files[filepath.ToSlash(file)] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// literal matches the text of a log line that an operator should act on.
var literal = regexp.MustCompile(`\.(?:Warn|Error)\((?:what\+)?"([^"]{8,})"`)

// An operator looks up a warning or an error of the log. The page has each of them, by words
// of the log line.
func TestPageHasEachWarning(t *testing.T) {
	var source strings.Builder
	var messages []string
	for file, text := range pluginSource(t) {
		source.WriteString(text)
		if !strings.Contains(file, "command") && !strings.Contains(file, "/cli/") {
			for _, m := range literal.FindAllStringSubmatch(text, -1) {
				messages = append(messages, m[1])
			}
		}
	}
	if len(messages) < 20 {
		t.Fatalf("%d messages", len(messages))
	}
	for _, page := range rig.InBothLanguages("troubleshooting.md") {
		var words []string
		for _, s := range sections(t, page) {
			if !strings.Contains(strings.Join(s.lines, "\n"), "| `the store does not answer`") {
				continue
			}
			for _, line := range s.lines {
				if cell, _, ok := strings.Cut(strings.TrimPrefix(line, "| "), " | "); ok && strings.HasPrefix(cell, "`") {
					words = append(words, strings.Split(strings.ReplaceAll(strings.Trim(cell, "`"), "`、`", "`, `"), "`, `")...)
				}
			}
		}
		for _, message := range messages {
			if !slices.ContainsFunc(words, func(w string) bool { return strings.Contains(message, w) }) {
				t.Errorf("docs/%s has no row for %q", page, message)
			}
		}
		for _, w := range words {
			if !strings.Contains(source.String(), w) {
				t.Errorf("docs/%s has %q, which no line of the log has", page, w)
			}
		}
	}
}

// headingOf matches a name in the list of headings that log lines lead to.
var headingOf = regexp.MustCompile(`(?m)^\t(\w+) +(?:Heading )?= "([a-z0-9_-]+)"$`)

// An operator follows a log line's `see` to the page, in either language. Each remedy has one,
// each heading is there, and the page has none that no line leads to.
func TestRemediesLeadToThePage(t *testing.T) {
	const list = "../caddymodule/internal/remedy/remedy.go"
	text, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	var source strings.Builder
	for file, text := range pluginSource(t) {
		if file == list {
			continue
		}
		source.WriteString(text)
		if strings.Contains(text, `"remedy"`) {
			t.Errorf("%s logs a remedy that leads nowhere: use the package remedy", file)
		}
	}
	var headings []string
	for _, m := range headingOf.FindAllStringSubmatch(string(text), -1) {
		headings = append(headings, m[2])
		if !strings.Contains(source.String(), "remedy."+m[1]) {
			t.Errorf("no line leads to %s", m[2])
		}
	}
	if len(headings) < 10 {
		t.Fatalf("only %d headings", len(headings))
	}
	all := documents(t)
	for _, page := range rig.InBothLanguages("troubleshooting.md") {
		for _, h := range headings {
			if !slices.Contains(all["docs/"+page].anchors, h) {
				t.Errorf("docs/%s has no heading #%s", page, h)
			}
		}
		var index, below string // the table of the section, and the names of the headings below it
		for _, s := range sections(t, page) {
			text := strings.Join(s.lines, "\n")
			if !strings.Contains(text, "| `the store does not answer`") {
				continue
			}
			index, text, _ = strings.Cut(text, "\n### ")
			for _, line := range strings.Split("### "+text, "\n") {
				if title, ok := strings.CutPrefix(line, "### "); ok && !strings.HasPrefix(page, "zh/") {
					below += anchor(title) + "\n"
				}
			}
			for _, m := range explicitAnchor.FindAllStringSubmatch(strings.Join(s.lines, "\n"), -1) {
				below += m[1] + "\n"
			}
		}
		if want := strings.Join(headings[1:], "\n") + "\n"; below != want {
			t.Errorf("docs/%s has these headings:\n%swant:\n%s", page, below, want)
		}
		for _, h := range headings {
			if !strings.Contains(index, "](#"+h+")") {
				t.Errorf("the table of docs/%s has no row that leads to #%s", page, h)
			}
		}
	}
}
