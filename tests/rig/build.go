// Package rig is the harness for tests of the built binary: Caddy as a process, the simulator
// in WeChat's place, an upstream that shows the requests that reached it, and a client.
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

// buildTime bounds the build of the binary; on a cold cache it takes minutes.
const buildTime = 8 * time.Minute

// scratch is the directory for all files of one test run.
var scratch string

// root returns the top of the repository.
func root() string {
	_, here, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(here), "..", "..")
}

// Main runs a package's tests for its TestMain, and removes the files that they left. All
// tests of the built binary take minutes, so with -short and without -run only the tests named
// in smoke run: those that a change breaks most often.
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
	return buildProgram("caddy", path, flags...)
}

// buildProgram builds a program of cmd.
func buildProgram(name, path string, flags ...string) (string, error) {
	if runtime.GOOS == "windows" {
		path += ".exe"
	}
	args := append([]string{"build", "-buildvcs=false", "-o", path}, flags...)
	if RaceDetector {
		args = append(args, "-race")
	}
	ctx, cancel := context.WithTimeout(context.Background(), buildTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", append(args, "github.com/wx-auth/caddy-wx-auth/cmd/"+name)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building cmd/%s: %w\n%s", name, err, out)
	}
	return path, nil
}

// buildSimulator builds cmd/wx-sim once, when the first test needs it.
var buildSimulator = sync.OnceValues(func() (string, error) { return buildProgram("wx-sim", filepath.Join(scratch, "wx-sim")) })

// buildStatic builds a package statically into the directory of the test run, without
// the race detector, which needs cgo. With -trimpath it shares compiled packages with
// xcaddy's builds.
func buildStatic(name, pkg string) (string, error) {
	path := filepath.Join(scratch, "static-"+name)
	ctx, cancel := context.WithTimeout(context.Background(), buildTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-o", path, "github.com/wx-auth/caddy-wx-auth/"+pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", pkg, err, out)
	}
	return path, nil
}

// StaticBinary returns the path of a program that needs nothing of the machine but its kernel.
// pkg is the path of the program's package below the module.
func StaticBinary(t testing.TB, pkg string) string {
	t.Helper()
	path, err := buildStatic(filepath.Base(pkg), pkg)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Simulator returns the path of a built cmd/wx-sim.
func Simulator(t testing.TB) string {
	t.Helper()
	path, err := buildSimulator()
	if err != nil {
		t.Fatal(err)
	}
	return path
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
