package tests

import (
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// directDependencies returns the direct requirements of a go.mod, without our own
// modules.
func directDependencies(t *testing.T, file string) (paths []string) {
	t.Helper()
	out, err := exec.Command("go", "mod", "edit", "-json", file).Output()
	if err != nil {
		t.Fatalf("go mod edit -json %s: %v", file, err)
	}
	var mod struct {
		Require []struct {
			Path     string
			Indirect bool
		}
	}
	if err := json.Unmarshal(out, &mod); err != nil {
		t.Fatal(err)
	}
	for _, r := range mod.Require {
		if !r.Indirect && !strings.HasPrefix(r.Path+"/", module) {
			paths = append(paths, r.Path)
		}
	}
	return paths
}

// modules returns the go.mod files of the repository.
func modules(t *testing.T) (files []string) {
	t.Helper()
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "node_modules"):
			return filepath.SkipDir
		case d.Name() == "go.mod":
			files = append(files, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

var moduleName = regexp.MustCompile("`([^`]+)`")

// dependencyTable returns the reason of each module in the table of docs/architecture.md,
// by the module's path.
func dependencyTable(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## Dependencies, and why\n")
	if !ok {
		t.Fatal("docs/architecture.md has no section \"Dependencies, and why\"")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	reasons := make(map[string]string)
	for line := range strings.Lines(section) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 || !strings.HasPrefix(strings.TrimSpace(cells[1]), "`") {
			continue
		}
		for _, name := range moduleName.FindAllStringSubmatch(cells[1], -1) {
			path := name[1]
			if first, _, _ := strings.Cut(path, "/"); !strings.Contains(first, ".") {
				path = "github.com/" + path
			}
			if _, twice := reasons[path]; twice {
				t.Errorf("docs/architecture.md has two rows for %s", path)
			}
			reasons[path] = strings.TrimSpace(cells[2])
		}
	}
	return reasons
}

// A dependency is other people's code in the path of every login, and one may be added without
// anybody asking why. So each needs a reason in docs/architecture.md, and the table must not
// list dependencies that are gone.
func TestEveryDependencyHasAReason(t *testing.T) {
	reasons := dependencyTable(t)
	var direct []string
	for _, file := range modules(t) {
		direct = append(direct, directDependencies(t, file)...)
	}
	slices.Sort(direct)
	direct = slices.Compact(direct)
	if len(direct) < 10 {
		t.Fatalf("only %q are required", direct)
	}
	for _, path := range direct {
		if reasons[path] == "" {
			t.Errorf("%s is required and has no row with a reason in docs/architecture.md", path)
		}
		delete(reasons, path)
	}
	for path := range reasons {
		t.Errorf("docs/architecture.md has a row for %s, and no go.mod requires it", path)
	}
}

// A requirement that no package imports is not needed, and an imported one that is
// marked indirect would not be in the table.
func TestDirectDependenciesAreImported(t *testing.T) {
	var imported []string
	for _, p := range listPackages(t) {
		imported = append(imported, slices.Concat(p.Imports, p.TestImports, p.XTestImports)...)
	}
	direct := directDependencies(t, "../go.mod")
	for _, path := range direct {
		if !slices.ContainsFunc(imported, func(i string) bool { return i == path || strings.HasPrefix(i, path+"/") }) {
			t.Errorf("go.mod requires %s directly, and no package imports it", path)
		}
	}
	for _, i := range imported {
		if first, _, _ := strings.Cut(i, "/"); !strings.Contains(first, ".") || strings.HasPrefix(i, module) {
			continue
		}
		if !slices.ContainsFunc(direct, func(path string) bool { return i == path || strings.HasPrefix(i, path+"/") }) {
			t.Errorf("%s is imported, and its module is no direct requirement of go.mod", i)
		}
	}
}
