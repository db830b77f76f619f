// Package rig is the test rig for the built binary: Caddy as a process, the simulator
// in WeChat's place, an upstream that returns the request it received, and a client.
package rig

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// buildTime bounds the build of the binary, which takes minutes with a cold cache.
const buildTime = 8 * time.Minute

// scratch is the directory for all files of one test run.
var scratch string

// Main runs a package's tests and removes their files; TestMain calls it. With -short
// and without -run it runs only the tests named in smoke: those that a change breaks
// most often, because the tests of the built binary take minutes.
func Main(m *testing.M, smoke ...string) int {
	flag.Parse()
	if run := flag.Lookup("test.run"); testing.Short() && run.Value.String() == "" {
		fmt.Printf("-short: %d smoke tests of this package run, the others are left out\n", len(smoke))
		if err := run.Value.Set("^(" + strings.Join(smoke, "|") + ")$"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	dir, err := os.MkdirTemp("", "wx-auth-tests-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	scratch = dir
	return m.Run()
}

// build builds cmd/caddy once, when the first test needs it.
var build = sync.OnceValues(func() (string, error) { return buildCaddy(filepath.Join(scratch, "caddy")) })

// buildCaddy builds cmd/caddy with further flags, and returns its path.
func buildCaddy(path string, flags ...string) (string, error) {
	if runtime.GOOS == "windows" {
		path += ".exe"
	}
	args := append([]string{"build", "-buildvcs=false", "-o", path}, flags...)
	if RaceDetector {
		args = append(args, "-race")
	}
	ctx, cancel := context.WithTimeout(context.Background(), buildTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", append(args, "github.com/wx-auth/caddy-wx-auth/cmd/caddy")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building cmd/caddy: %w\n%s", err, out)
	}
	return path, nil
}

// Binary returns the path of the Caddy under test.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}
