package main

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestShippedFileNamesTheCaddyOfGoMod compares xcaddy.json with go.mod: the tests must
// run with the Caddy that users build.
func TestShippedFileNamesTheCaddyOfGoMod(t *testing.T) {
	b, err := readBuilder("../../xcaddy.json")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("go", "mod", "edit", "-json", "../../go.mod").Output()
	if err != nil {
		t.Fatal(err)
	}
	var mod struct {
		Module  struct{ Path string }
		Require []struct{ Path, Version string }
	}
	if err := json.Unmarshal(out, &mod); err != nil {
		t.Fatal(err)
	}
	var caddy string
	for _, r := range mod.Require {
		if r.Path == "github.com/caddyserver/caddy/v2" {
			caddy = r.Version
		}
	}
	if b.CaddyVersion != caddy {
		t.Errorf("xcaddy.json has Caddy %s, go.mod has %s", b.CaddyVersion, caddy)
	}
	want := []dependency{{PackagePath: mod.Module.Path + "/caddymodule"}}
	if !slices.Equal(b.Plugins, want) {
		t.Errorf("plugins = %v, want %v", b.Plugins, want)
	}
}

// TestBuilderIsReadStrictly reads files with mistakes. A misspelled member must be an
// error, or it would be ignored.
func TestBuilderIsReadStrictly(t *testing.T) {
	for _, tc := range []struct{ name, json, err string }{
		{"unknown member", `{"caddy_version":"v2.1.0","plugins":[{"module_path":"a/b"}],"build_flags":"-race"}`, `unknown field "build_flags"`},
		{"unknown member of a plugin", `{"caddy_version":"v2.1.0","plugins":[{"package_path":"a/b"}]}`, `unknown field "package_path"`},
		{"wrong type", `{"caddy_version":2}`, "cannot unmarshal number"},
		{"no version", `{"plugins":[{"module_path":"a/b"}]}`, "caddy_version is missing"},
		{"no plugin", `{"caddy_version":"v2.1.0"}`, "plugins is empty"},
		{"nameless plugin", `{"caddy_version":"v2.1.0","plugins":[{"version":"v1.0.0"}]}`, "plugins[0]: module_path is missing"},
		{"half a replacement", `{"caddy_version":"v2.1.0","plugins":[{"module_path":"a/b"}],"replacements":[{"old":"a"}]}`, "replacements[0]"},
		{"two values", `{"caddy_version":"v2.1.0","plugins":[{"module_path":"a/b"}]} {}`, "more than one JSON value"},
		{"cut off", `{"caddy_version":"v2.1.0"`, "unexpected EOF"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := parseBuilder([]byte(tc.json))
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("error = %v, want one with %q", err, tc.err)
			}
		})
	}
}

// TestWorkingTreeReplacesItsModule checks the command line for plugins inside and
// outside the working tree.
func TestWorkingTreeReplacesItsModule(t *testing.T) {
	tree := module{Path: "example.com/m", Dir: "/src/m"}
	for _, tc := range []struct {
		name string
		b    builder
		want string
	}{
		{"a package of the tree", builder{Plugins: []dependency{{PackagePath: "example.com/m/a/b"}}},
			"--with example.com/m/a/b@v0.0.0 --replace example.com/m@v0.0.0=/src/m --replace example.com/m/a/b@v0.0.0=/empty --replace example.com/m/a@v0.0.0=/empty"},
		{"the tree's top package", builder{Plugins: []dependency{{PackagePath: "example.com/m"}}},
			"--with example.com/m@v0.0.0 --replace example.com/m@v0.0.0=/src/m"},
		{"a released version", builder{Plugins: []dependency{{"example.com/m/a", "v0.1.0"}}},
			"--with example.com/m/a@v0.1.0"},
		{"somebody else's plugins beside it", builder{Plugins: []dependency{{PackagePath: "example.com/m"}, {PackagePath: "example.com/mm"}, {"example.com/n", "v1.2.3"}}},
			"--with example.com/m@v0.0.0 --with example.com/mm --with example.com/n@v1.2.3 --replace example.com/m@v0.0.0=/src/m"},
		{"the file's own replacements", builder{Plugins: []dependency{{PackagePath: "example.com/n"}}, Replacements: []replacement{{"example.com/n", "../n"}}},
			"--with example.com/n --replace example.com/n=../n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.b.CaddyVersion = "v2.1.0"
			got := strings.Join(tc.b.arguments(tree, "/empty", "/out/caddy"), " ")
			if want := "build v2.1.0 --output /out/caddy " + tc.want; got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}
