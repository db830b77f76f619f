package rig

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Change is a text in a source file and its replacement for the compiler. If the file
// does not exist, it is created from New.
type Change struct{ File, Old, New string }

// BuildWith builds the binary with changes to its sources, for times that a test cannot
// wait for and no setting can shorten. File names are relative to the root of the
// module. If an Old does not occur in its file, the test ends.
func BuildWith(t testing.TB, name string, changes []Change) string {
	t.Helper()
	dir, err := os.MkdirTemp(scratch, name+"-")
	if err != nil {
		t.Fatal(err)
	}
	texts := make(map[string]string)
	for _, c := range changes {
		path := filepath.Join(root(), c.File)
		text, read := texts[path]
		if !read && c.Old != "" {
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			text = string(raw)
		}
		if c.Old != "" && !strings.Contains(text, c.Old) {
			t.Fatalf("%s has no %q any more: say here what it has now", c.File, c.Old)
		}
		if c.Old == "" {
			texts[path] = c.New
			continue
		}
		texts[path] = strings.ReplaceAll(text, c.Old, c.New)
	}
	var overlay struct{ Replace map[string]string }
	overlay.Replace = make(map[string]string)
	for path, text := range texts {
		changed := filepath.Join(dir, fmt.Sprint(len(overlay.Replace), ".go"))
		if err := os.WriteFile(changed, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		overlay.Replace[path] = changed
	}
	raw, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	path, err := buildCaddy(filepath.Join(dir, "caddy"), "-overlay", list)
	if err != nil {
		t.Fatal(err)
	}
	return path
}
