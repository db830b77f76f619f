package tests

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	architecture        = "../docs/architecture.md"
	architectureChinese = "../docs/zh/architecture.md"
)

// architectureSection returns the lines of a section of docs/architecture.md.
func architectureSection(t *testing.T, heading string) []string {
	t.Helper()
	text, err := os.ReadFile(architecture)
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("docs/architecture.md has no section %q", heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	return strings.Split(section, "\n")
}

// firstCell matches the code in the first cell of a table's row.
var firstCell = regexp.MustCompile("^\\| `([^`]+)` \\|")

// The Chinese page has the rows of the English one: the same packages and modules, in the
// same order.
func TestArchitectureIsTheSameInChinese(t *testing.T) {
	cells := func(page string) (all []string) {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile("(?m)^\\| (`[^|]+`) \\|").FindAllStringSubmatch(string(text), -1) {
			all = append(all, strings.ReplaceAll(m[1], "、", ", "))
		}
		return all
	}
	en, zh := cells(architecture), cells(architectureChinese)
	if len(en) < 40 || !slices.Equal(en, zh) {
		t.Errorf("docs/architecture.md has the rows\n%q\ndocs/zh/architecture.md has\n%q", en, zh)
	}
}

// A reader draws the structure by this page, so the page lists every package once, each above
// all packages that it imports.
func TestArchitectureListsPackages(t *testing.T) {
	var listed []string
	for _, line := range architectureSection(t, "Packages") {
		if m := firstCell.FindStringSubmatch(line); m != nil {
			listed = append(listed, strings.Replace(m[1], "internal/", plugin+"/internal/", 1))
		}
	}
	packages := listPackages(t)
	at := func(dir string) int {
		if strings.HasPrefix(dir, "tests/") || strings.HasPrefix(dir, "examples/") {
			dir, _, _ = strings.Cut(dir, "/")
		}
		dir = strings.TrimSuffix(dir, "/dbtest") // for the tests of its parent
		return slices.Index(listed, dir)
	}
	for _, p := range packages {
		if strings.HasPrefix(p.dir(), "examples") {
			continue
		}
		if at(p.dir()) < 0 {
			t.Errorf("%s is not in the table of docs/architecture.md", p.dir())
		}
		if strings.HasPrefix(p.dir(), "tests") {
			continue
		}
		for _, path := range p.Imports {
			if dir, ours := strings.CutPrefix(path, module); ours && at(dir) < at(p.dir()) {
				t.Errorf("%s imports %s, which stands above it", p.dir(), dir)
			}
		}
	}
	for i, dir := range listed {
		if slices.Index(listed, dir) != i {
			t.Errorf("%s is listed twice", dir)
		}
		if !slices.ContainsFunc(packages, func(p goPackage) bool { return p.dir() == dir }) && dir != "tests" {
			t.Errorf("%s is listed and does not exist", dir)
		}
	}
}

// namedFile matches a file that the page names, with the folder it is in.
var namedFile = regexp.MustCompile("`((?:[a-z]+/)*[a-z_]+\\.go)`")

// Each file that the pages name exists: a task's file must be found in a minute.
func TestArchitectureNamesFilesThatExist(t *testing.T) {
	pages, err := filepath.Glob("../docs/design/*.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, page := range append(pages, architecture, architectureChinese) {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range namedFile.FindAllStringSubmatch(string(text), -1) {
			if found++; !existsSomewhere(m[1]) {
				t.Errorf("%s names %s, which does not exist", filepath.Base(page), m[1])
			}
		}
	}
	if found < 20 {
		t.Errorf("only %d files are named", found)
	}
}

// existsSomewhere reports whether a file is at the top, in the plugin, or in one of the
// packages. A name without a folder may be in any of them.
func existsSomewhere(name string) bool {
	for _, pattern := range []string{"../", "../" + plugin + "/", "../" + plugin + "/internal/", "../" + plugin + "/user/", "../tests/",
		"../tests/*/", "../" + plugin + "/*/", "../" + plugin + "/internal/*/", "../" + plugin + "/user/*/"} {
		if strings.Contains(name, "/") && strings.HasSuffix(pattern, "*/") {
			continue
		}
		if files, _ := filepath.Glob(pattern + name); len(files) > 0 {
			return true
		}
	}
	return false
}

// The page fits on a few screens: what needs more has a page under docs/design.
func TestArchitectureIsShort(t *testing.T) {
	text, err := os.ReadFile(architecture)
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(string(text), "\n"); lines > 120 {
		t.Errorf("docs/architecture.md has %d lines, of at most 120", lines)
	}
}
