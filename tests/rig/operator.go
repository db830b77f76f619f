package rig

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// Operator runs `caddy wx-auth` commands with the environment and the configuration of a
// gateway.
type Operator struct {
	Caddy     *Caddy
	Caddyfile string
}

// Try runs a command with a standard input and returns its output.
func (o Operator) Try(t testing.TB, input string, args ...string) (string, error) {
	t.Helper()
	return o.Caddy.CommandWith(input, o.complete(t, args)...)
}

// complete adds the configuration to a command.
func (o Operator) complete(t testing.TB, args []string) []string {
	t.Helper()
	path := filepath.Join(o.Caddy.Home, "Caddyfile.command")
	if err := os.WriteFile(path, []byte(o.Caddyfile), 0o600); err != nil {
		t.Fatal(err)
	}
	return append(append([]string{"wx-auth"}, args...), "--config", path, "--adapter", "caddyfile")
}

// Run runs a command, which must succeed, and returns its output.
func (o Operator) Run(t testing.TB, args ...string) string {
	t.Helper()
	out, err := o.Try(t, "", args...)
	if err != nil {
		t.Fatalf("%s: %v\n%s", args, err, out)
	}
	return out
}

// JSON runs a command with --json and decodes its standard output. It returns the
// command's error.
func (o Operator) JSON(t testing.TB, into any, args ...string) error {
	t.Helper()
	out, stderr, failed := o.Caddy.outputs("", false, o.complete(t, append(args, "--json"))...)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		t.Fatalf("%s: %v\n%s%s", args, err, out, stderr)
	}
	return failed
}
