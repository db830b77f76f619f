package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
)

// builder has the members of xcaddy's Builder that xcaddy's command line supports, with
// xcaddy's names and meanings.
type builder struct {
	CaddyVersion string        `json:"caddy_version"`
	Plugins      []dependency  `json:"plugins"`
	Replacements []replacement `json:"replacements"`
}

// dependency is a plugin: the import path of its package and the version of its module. An
// empty version means the newest.
type dependency struct {
	PackagePath string `json:"module_path"`
	Version     string `json:"version"`
}

// replacement is a replace directive in the go.mod of the build.
type replacement struct {
	Old string `json:"old"`
	New string `json:"new"`
}

// readBuilder reads xcaddy.json. A member that would have no effect is an error, so that
// nobody relies on it.
func readBuilder(path string) (builder, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return builder{}, err
	}
	b, err := parseBuilder(raw)
	if err != nil {
		return builder{}, fmt.Errorf("%s: %w", path, err)
	}
	return b, nil
}

func parseBuilder(raw []byte) (builder, error) {
	var b builder
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&b); err != nil {
		if strings.Contains(err.Error(), "unknown field") {
			return builder{}, fmt.Errorf("%w: caddy_version, plugins (module_path, version) and replacements (old, new) can be given; for the rest set xcaddy's environment variables", err)
		}
		return builder{}, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return builder{}, errors.New("more than one JSON value")
	}
	if b.CaddyVersion == "" {
		return builder{}, errors.New("caddy_version is missing: without it xcaddy takes the newest Caddy")
	}
	if len(b.Plugins) == 0 {
		return builder{}, errors.New("plugins is empty: the result would be a plain Caddy")
	}
	for i, p := range b.Plugins {
		if p.PackagePath == "" {
			return builder{}, fmt.Errorf("plugins[%d]: module_path is missing", i)
		}
	}
	for i, r := range b.Replacements {
		if r.Old == "" || r.New == "" {
			return builder{}, fmt.Errorf("replacements[%d]: old and new are both needed", i)
		}
	}
	return b, nil
}

// treeVersion is the version that the working tree has in the build.
const treeVersion = "v0.0.0"

// arguments returns b as xcaddy's command line. A plugin in the tree's module is built from
// the tree, unless it has a version.
//
// A replacement applies to a module, while a plugin is a package in a module. `--with
// package=directory` would therefore replace a module with the package's name, which does not
// exist.
//
// The plain `--with package --replace module=directory` fails without a module proxy. It makes
// `go get` ask the proxy for versions of the module, and of a module with the package's name,
// although the source is here; the build fails unless the proxy answers "not found".
//
// Therefore the module gets a version and is replaced at that version. Each longer path that
// could be a module is replaced by empty, a module without packages.
func (b builder) arguments(tree module, empty, output string) []string {
	args := []string{"build", b.CaddyVersion, "--output", output}
	var replaced []string
	replace := func(old, with string) {
		if arg := old + "=" + with; !slices.Contains(replaced, arg) {
			replaced = append(replaced, arg)
		}
	}
	for _, p := range b.Plugins {
		if p.Version == "" && (p.PackagePath == tree.Path || strings.HasPrefix(p.PackagePath, tree.Path+"/")) {
			p.Version = treeVersion
			replace(tree.Path+"@"+treeVersion, tree.Dir)
			for longer := p.PackagePath; longer != tree.Path; longer = path.Dir(longer) {
				replace(longer+"@"+treeVersion, empty)
			}
		}
		with := p.PackagePath
		if p.Version != "" {
			with += "@" + p.Version
		}
		args = append(args, "--with", with)
	}
	for _, r := range b.Replacements {
		replace(r.Old, r.New)
	}
	for _, r := range replaced {
		args = append(args, "--replace", r)
	}
	return args
}
