package rig

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Change is a text in a source file and its replacement for the compiler. If the file
// does not exist, it is created from New.
type Change struct{ File, Old, New string }

// BuildWith builds the binary with changes to its sources, for times that a test cannot
// wait for and no setting can shorten. File names are relative to the root of the
// module. If an Old does not occur in its file, the test ends.
func BuildWith(t testing.TB, name string, changes []Change) string {
	t.Helper()
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
	dir, err := keepOverlay(name, texts)
	if err != nil {
		t.Fatal(err)
	}
	path, err := buildProgram("cmd/caddy", []string{"-overlay", filepath.Join(dir, "overlay.json")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// keepOverlay writes the texts of an overlay, and returns the directory. Equal texts have
// the same directory in each run, so that the go command has nothing to build again.
func keepOverlay(name string, texts map[string]string) (string, error) {
	built, err := builtDir()
	if err != nil {
		return "", err
	}
	var all []string
	for _, path := range slices.Sorted(maps.Keys(texts)) {
		all = append(all, path, texts[path])
	}
	dir := filepath.Join(built, name+"-"+digest(all...))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	unlock, err := lock(dir + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	list := filepath.Join(dir, "overlay.json")
	if _, err := os.Stat(list); err == nil {
		now := time.Now()
		return dir, os.Chtimes(dir, now, now)
	}
	var overlay struct{ Replace map[string]string }
	overlay.Replace = make(map[string]string)
	for path, text := range texts {
		changed := filepath.Join(dir, fmt.Sprint(len(overlay.Replace), ".go"))
		if err := os.WriteFile(changed, []byte(text), 0o600); err != nil {
			return "", err
		}
		overlay.Replace[path] = changed
	}
	raw, err := json.Marshal(overlay)
	if err != nil {
		return "", err
	}
	return dir, os.WriteFile(list, raw, 0o600)
}
