package rig

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// ReadmeBlock returns the one code block of a page that contains the text, without its fences.
func ReadmeBlock(t testing.TB, file, text string) string {
	t.Helper()
	readme, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for i, part := range strings.Split(string(readme), "```") {
		if i%2 == 1 && strings.Contains(part, text) {
			_, block, _ := strings.Cut(part, "\n")
			found = append(found, block)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d blocks of %s contain %q", len(found), file, text)
	}
	return found[0]
}

// PageBlock is ReadmeBlock for a page in docs.
func PageBlock(t testing.TB, page, text string) string {
	t.Helper()
	return ReadmeBlock(t, filepath.Join(root(), "docs", page), text)
}

// Replaced replaces parts of a page's block by what a test needs; each of the old
// texts must occur in it.
func Replaced(t testing.TB, block string, oldnew ...string) string {
	t.Helper()
	for i := 0; i < len(oldnew); i += 2 {
		if !strings.Contains(block, oldnew[i]) {
			t.Fatalf("%q is not in the page's block:\n%s", oldnew[i], block)
		}
	}
	return strings.NewReplacer(oldnew...).Replace(block)
}

// InBothLanguages returns a page of docs and its Chinese twin.
func InBothLanguages(page string) []string { return []string{page, "zh/" + page} }
