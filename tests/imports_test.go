package tests

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	module = "github.com/wx-auth/caddy-wx-auth/"
	plugin = "caddymodule"
	double = "caddymodule/wechat/wechattest"
)

// allowedImports lists the packages of this module, each with the packages of the module
// that its code may import. docs/architecture.md draws them.
var allowedImports = map[string][]string{
	"caddymodule/user":             {},
	"caddymodule/wechat":           {"caddymodule/internal/clock", "caddymodule/internal/span"},
	"caddymodule/internal/token":   {"caddymodule/internal/counter"},
	"caddymodule/internal/counter": {},
	"caddymodule/internal/outage":  {},
	"caddymodule/internal/remedy":  {},
	"caddymodule/internal/metrics": {"caddymodule/wechat", "caddymodule/internal/counter", "caddymodule/internal/login", "caddymodule/internal/problem"},
	"caddymodule/internal/clock":   {},
	"caddymodule/internal/network": {},
	"caddymodule/internal/session": {"caddymodule/internal/clock"},
	"caddymodule/internal/problem": {},
	"caddymodule/internal/span":    {},
	"caddymodule/internal/conn":    {},
	"caddymodule/internal/cli": {"caddymodule/user", "caddymodule/wechat", "caddymodule/internal/account", "caddymodule/internal/clock", "caddymodule/internal/event", "caddymodule/internal/importer",
		"caddymodule/internal/session", "caddymodule/internal/store", "caddymodule/internal/token"},
	"caddymodule/internal/event":   {"caddymodule/user", "caddymodule/internal/problem", "caddymodule/internal/session"},
	"caddymodule/internal/account": {"caddymodule/user", "caddymodule/wechat", "caddymodule/internal/event", "caddymodule/internal/login", "caddymodule/internal/session"},
	"caddymodule/internal/api": {"caddymodule/user", "caddymodule/wechat", "caddymodule/internal/account", "caddymodule/internal/conn", "caddymodule/internal/event", "caddymodule/internal/gate",
		"caddymodule/internal/login", "caddymodule/internal/metrics", "caddymodule/internal/network", "caddymodule/internal/outage", "caddymodule/internal/problem", "caddymodule/internal/ratelimit", "caddymodule/internal/remedy",
		"caddymodule/internal/session", "caddymodule/internal/span", "caddymodule/internal/token"},
	"caddymodule/internal/gate":      {"caddymodule/internal/problem", "caddymodule/internal/token"},
	"caddymodule/internal/login":     {"caddymodule/user", "caddymodule/wechat", "caddymodule/internal/clock", "caddymodule/internal/problem", "caddymodule/internal/session", "caddymodule/internal/span", "caddymodule/internal/token"},
	"caddymodule/internal/importer":  {"caddymodule/user"},
	"caddymodule/internal/ratelimit": {},
	"caddymodule/internal/store": {"caddymodule/user", "caddymodule/internal/account", "caddymodule/internal/clock", "caddymodule/internal/importer", "caddymodule/internal/login",
		"caddymodule/internal/remedy", "caddymodule/internal/session", "caddymodule/internal/sqldb", "caddymodule/internal/token"},
	"caddymodule/internal/sqldb":        {"caddymodule/internal/clock", "caddymodule/internal/network", "caddymodule/internal/remedy", "caddymodule/internal/span"},
	"caddymodule/internal/sqldb/dbtest": {},
	"caddymodule/internal/external":     {"caddymodule/user/sqldir", "caddymodule/internal/sqldb"},
	"caddymodule/internal/storestate":   {"caddymodule/internal/clock", "caddymodule/internal/remedy", "caddymodule/internal/session", "caddymodule/internal/store"},
	"caddymodule/user/webhook":          {"caddymodule/user", "caddymodule/internal/clock", "caddymodule/internal/span"},
	"caddymodule/user/sqldir":           {"caddymodule/user"},
	plugin: {"caddymodule/user", "caddymodule/user/webhook", "caddymodule/user/sqldir", "caddymodule/wechat", "caddymodule/internal/account", "caddymodule/internal/api", "caddymodule/internal/cli", "caddymodule/internal/clock",
		"caddymodule/internal/conn", "caddymodule/internal/event", "caddymodule/internal/external", "caddymodule/internal/gate",
		"caddymodule/internal/login", "caddymodule/internal/metrics", "caddymodule/internal/network", "caddymodule/internal/outage", "caddymodule/internal/problem", "caddymodule/internal/ratelimit", "caddymodule/internal/remedy",
		"caddymodule/internal/session", "caddymodule/internal/sqldb", "caddymodule/internal/store", "caddymodule/internal/storestate", "caddymodule/internal/token"},
	double:               {}, // written from WeChat's documentation, independently of our client
	"cmd/build":          {},
	"cmd/caddy":          {plugin, double, "client"},
	"client":             {},
	"cmd/wx-sim":         {double},
	"examples/directory": {},
	"tests/directories":  {"tests/rig", double},
	"tests":              {"tests/rig"},
	"tests/examples":     {"tests/rig", double},
	"tests/logins":       {"tests/rig", double},
	"tests/operation":    {"tests/rig", double},
	"tests/requests":     {"tests/rig", double},
	"tests/rig":          {double},
	"tests/replicas":     {"tests/rig", double},
	"tests/bench":        {"tests/rig", double},

	"examples/docker/live": {}, // the health check of the image
}

var (
	mayImportCaddy = []string{plugin, "cmd/caddy", "examples/directory", "tests", "tests/rig", "tests/bench", "tests/directories", "tests/examples", "tests/logins", "tests/operation", "tests/replicas", "tests/requests"}
	mayImportJWX   = []string{"caddymodule/internal/token"}
)

// goPackage holds the parts of the go command's output that are used here.
type goPackage struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
}

func (p goPackage) dir() string { return strings.TrimPrefix(p.ImportPath, module) }

func listPackages(t *testing.T) []goPackage {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(goList(t, "-json=ImportPath,Imports,TestImports,XTestImports", "./...")))
	var packages []goPackage
	for {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

func goList(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	cmd.Dir = ".."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	return out
}

// A package that imports from a higher level makes a circle sooner or later, and nobody can
// understand it alone. A new package must get its place in the list and in docs/architecture.md.
func TestNoPackageImportsUpwards(t *testing.T) {
	packages := listPackages(t)
	for _, p := range packages {
		allowed, ok := allowedImports[p.dir()]
		if !ok {
			t.Errorf("%s is not in allowedImports: add it there and to docs/architecture.md", p.dir())
			continue
		}
		for _, path := range p.Imports {
			if dir, ours := strings.CutPrefix(path, module); ours && !slices.Contains(allowed, dir) {
				t.Errorf("%s imports %s", p.dir(), dir)
			}
		}
		// A test may import other packages too, but none from a higher level.
		for _, path := range slices.Concat(p.TestImports, p.XTestImports) {
			dir, ours := strings.CutPrefix(path, module)
			if ours && dir != p.dir() && slices.Contains(mayImportCaddy, dir) && !slices.Contains(mayImportCaddy, p.dir()) {
				t.Errorf("a test of %s imports %s", p.dir(), dir)
			}
		}
	}
	for dir := range allowedImports {
		if !slices.ContainsFunc(packages, func(p goPackage) bool { return p.dir() == dir }) {
			t.Errorf("%s is in allowedImports but not in the module", dir)
		}
	}
}

// Some libraries may have to be replaced one day, so their types must not spread: Caddy's not
// beyond the module, jwx's (which is no longer maintained) not beyond the tokens, and
// OpenTelemetry's not beyond the spans.
func TestLibrariesStayInTheirPackages(t *testing.T) {
	for _, p := range listPackages(t) {
		for _, path := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			if strings.HasPrefix(path, "github.com/caddyserver/") && !slices.Contains(mayImportCaddy, p.dir()) {
				t.Errorf("%s imports %s", p.dir(), path)
			}
		}
		// Tests may use jwx as a second opinion on our tokens.
		for _, path := range p.Imports {
			if strings.HasPrefix(path, "go.opentelemetry.io/") && p.dir() != "caddymodule/internal/span" {
				t.Errorf("%s imports %s", p.dir(), path)
			}
			if strings.HasPrefix(path, "github.com/lestrrat-go/jwx/") && !slices.Contains(mayImportJWX, p.dir()) {
				t.Errorf("%s imports %s", p.dir(), path)
			}
		}
	}
}

// The simulator answers logins for any phone number, so it must not be in a user's build.
func TestSimulatorIsNotInAUsersBuild(t *testing.T) {
	deps := strings.Fields(string(goList(t, "-deps", "./"+plugin)))
	if !slices.Contains(deps, module+"caddymodule/wechat") {
		t.Fatalf("the plugin does not even need wechat: %d packages", len(deps))
	}
	if slices.Contains(deps, module+double) {
		t.Errorf("%s is linked into %s", double, plugin)
	}
}

// Marks for work that is left to do are forgotten as soon as they are committed, so there must
// be none.
func TestNothingIsLeftToDo(t *testing.T) {
	mark := regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME)\b`)
	read := 0
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == "node_modules") {
			return filepath.SkipDir
		}
		info, err := d.Info()
		if err != nil || !info.Mode().IsRegular() || info.Size() > 1<<20 || d.Name() == "go.sum" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil || bytes.IndexByte(text, 0) >= 0 {
			return err
		}
		read++
		for i, line := range strings.Split(string(text), "\n") {
			if found := mark.FindString(line); found != "" {
				t.Errorf("%s:%d has a %s", path, i+1, found)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if read < 10 {
		t.Errorf("only %d files were read", read)
	}
}
