package tests

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

const (
	// maxTestName is the maximum length of a test's name, so that a list of tests shows it whole.
	maxTestName = 40
	// maxWidth is the maximum number of columns of a comment's line, where a tab counts as four.
	maxWidth = 100
)

// avoided are wordings that a reader has to read twice, each with what to write instead.
var avoided = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`(^|[.:;] )[Ww]ho\b[^?]*(\.|$)`), "name the subject: a client that …, callers that …"},
	{regexp.MustCompile(`(?i)\b(tells?|told|telling)\b`), "logs, reports, returns, answers"},
	{regexp.MustCompile(`^(// )?\S+ (is|are|was|were) (where|when|what|who)\b`), "X returns …, X is the time at which …"},
	{regexp.MustCompile(`\bof (ours|theirs|hers)\b|\bof [\w ]{1,24}'s[.,;:)]`), "our X, WeChat's X"},
	{regexp.MustCompile(`(?i)\b(anew|mend(s|ed|ing)?)\b`), "again, fix"},
}

// apart matches "told apart" and the like, the only allowed use of a word in avoided.
var apart = regexp.MustCompile(`(?i)\btold apart\b|\btells? \w+ apart\b`)

// goFile is a parsed file with its text.
type goFile struct {
	*ast.File
	set  *token.FileSet
	text string
}

func (f goFile) line(at ast.Node) int { return f.set.Position(at.Pos()).Line }

// filesOf returns the texts of the repository's files with an extension, by their paths below
// the root. If there are fewer than least, the search went wrong and the test ends.
func filesOf(t testing.TB, extension string, least int) map[string]string {
	t.Helper()
	files := make(map[string]string)
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains([]string{".git", "node_modules", "testdata", ".data"}, d.Name()):
			return filepath.SkipDir
		case d.IsDir() || filepath.Ext(path) != extension:
			return nil
		}
		text, err := os.ReadFile(path)
		files[strings.TrimPrefix(filepath.ToSlash(path), "../")] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < least {
		t.Fatalf("only %d files were read", len(files))
	}
	return files
}

// goFiles returns every Go file of the repository, by its path below the root.
func goFiles(t *testing.T) map[string]goFile {
	t.Helper()
	files := make(map[string]goFile)
	for name, text := range filesOf(t, ".go", 100) {
		f := goFile{set: token.NewFileSet(), text: text}
		var err error
		if f.File, err = parser.ParseFile(f.set, name, text, parser.ParseComments|parser.SkipObjectResolution); err != nil {
			t.Fatal(err)
		}
		files[name] = f
	}
	return files
}

// When a test fails, its name and comment are the first things that somebody reads who has
// never seen it: the name must fit into a list, and the comment must say which attack or
// story the test is about.
func TestTestsHaveAShortNameAndAStory(t *testing.T) {
	for file, f := range goFiles(t) {
		if !strings.HasSuffix(file, "_test.go") {
			continue
		}
		for _, decl := range f.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || fn.Recv != nil || !isTest(fn.Name.Name) {
				continue
			}
			if len(fn.Name.Name) > maxTestName || fn.Doc == nil {
				t.Errorf("%s: %s needs a comment, and at most %d characters", file, fn.Name.Name, maxTestName)
			}
		}
	}
}

func isTest(name string) bool {
	if name == "TestMain" {
		return false
	}
	for _, prefix := range []string{"Test", "Benchmark", "Fuzz"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// Comments once were short and had to be read twice. Wordings that caused this must not come
// back, nor lines that do not fit beside a diff.
func TestCommentsAreReadOnce(t *testing.T) {
	for file, f := range goFiles(t) {
		for _, group := range f.Comments {
			text := apart.ReplaceAllString(strings.Join(strings.Fields(group.Text()), " "), "")
			for _, a := range avoided {
				if found := a.pattern.FindString(text); found != "" {
					t.Errorf("%s:%d: %q: write %s", file, f.line(group), found, a.instead)
				}
			}
		}
		for i, line := range strings.Split(f.text, "\n") { // a single word, such as a URL, may be longer
			comment := strings.TrimLeft(line, "\t")
			if width := 3*(len(line)-len(comment)) + utf8.RuneCountInString(line); strings.HasPrefix(comment, "// ") && width > maxWidth && strings.Contains(comment[3:], " ") {
				t.Errorf("%s:%d: the comment has %d columns, more than %d", file, i+1, width, maxWidth)
			}
		}
	}
}

// SECURITY.md names the tests that hold each promise. A test that was renamed must not turn
// the list into a claim that nobody can check.
func TestSecurityNamesRealTests(t *testing.T) {
	page, err := os.ReadFile("../SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	files := goFiles(t)
	named := regexp.MustCompile("`([a-z0-9_/]+_test\\.go|Fuzz\\w+)`").FindAllSubmatch(page, -1)
	if len(named) < 40 {
		t.Fatalf("only %d tests are named", len(named))
	}
	for _, m := range named {
		name, found := string(m[1]), false
		for file, f := range files {
			found = found || strings.HasSuffix("/"+file, "/"+name) || strings.HasSuffix(file, "_test.go") && strings.Contains(f.text, "\nfunc "+name+"(")
		}
		if !found {
			t.Errorf("SECURITY.md names %s, which does not exist", name)
		}
	}
}
