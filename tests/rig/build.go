// Package rig is the harness for tests of the built binary: Caddy as a process, the simulator
// in WeChat's place, an upstream that shows the requests that reached it, and a client.
package rig

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// buildTime bounds the build of the binary; on a cold cache it takes minutes.
const buildTime = 8 * time.Minute

// sideBySide is how many parallel tests run at once at least. Most of them wait for a time
// or a process more than they compute.
const sideBySide = 8

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
	set := false
	flag.Visit(func(f *flag.Flag) { set = set || f.Name == "test.parallel" })
	if !set {
		_ = flag.Set("test.parallel", strconv.Itoa(max(sideBySide, runtime.GOMAXPROCS(0))))
	}
	dir, err := os.MkdirTemp("", "wx-auth-tests-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	scratch = dir
	if limit := flag.Lookup("test.timeout").Value.(flag.Getter).Get().(time.Duration); limit > 2*beforeTimeout {
		defer time.AfterFunc(limit-beforeTimeout, endLate).Stop()
	}
	return m.Run()
}

// builtAge is how long a program stays in the cache after its last use.
const builtAge = 48 * time.Hour

// builtDir returns a directory that outlives a test run, for programs of these sources: the
// go command links a program again unless it finds it where it is to be written. What
// nobody has used for a while is removed from it.
var builtDir = sync.OnceValues(func() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return scratch, nil // without a home
	}
	cache = filepath.Join(cache, "caddy-wx-auth-tests", "built")
	dir := filepath.Join(cache, digest(root()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	for _, pattern := range []string{"*", "*/*"} {
		old, err := filepath.Glob(filepath.Join(cache, pattern))
		if err != nil {
			return "", err
		}
		for _, path := range old {
			if f, err := os.Stat(path); err == nil && path != dir && time.Since(f.ModTime()) > builtAge {
				os.RemoveAll(path)
			}
		}
	}
	return dir, nil
})

func digest(parts ...string) string {
	return fmt.Sprintf("%.12x", sha256.Sum256([]byte(strings.Join(parts, "\x00"))))
}

// buildProgram builds a package of this module with further flags and environment
// variables, unless an earlier test run has, and returns the path of this run's copy.
// Several packages' tests do so at the same time: the first builds.
func buildProgram(pkg string, flags, env []string) (string, error) {
	dir, err := builtDir()
	if err != nil {
		return "", err
	}
	if RaceDetector && len(env) == 0 { // it needs cgo
		flags = append(flags, "-race")
	}
	name := filepath.Base(pkg) + "-" + digest(append(append([]string{pkg}, flags...), env...)...)
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	kept, own := filepath.Join(dir, name), filepath.Join(scratch, name)
	unlock, err := lock(kept + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(context.Background(), buildTime)
	defer cancel()
	args := append([]string{"build", "-buildvcs=false", "-o", kept}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, "github.com/wx-auth/caddy-wx-auth/"+pkg)...)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", pkg, err, out)
	}
	now := time.Now()
	if err := errors.Join(os.Chtimes(kept, now, now), os.Chtimes(dir, now, now)); err != nil {
		return "", err
	}
	return own, copyProgram(own, kept)
}

// copyProgram makes a program at own that stays the same when the one at kept is built
// again. The go command does not write into a file that is there, it replaces it.
func copyProgram(own, kept string) error {
	if own == kept || os.Link(kept, own) == nil {
		return nil
	}
	from, err := os.Open(kept)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(own, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o700)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return cmp.Or(err, to.Close())
}

var (
	build          = sync.OnceValues(func() (string, error) { return buildProgram("cmd/caddy", nil, nil) })
	buildSimulator = sync.OnceValues(func() (string, error) { return buildProgram("cmd/wx-sim", nil, nil) })
)

// StaticBinary returns the path of a program that needs nothing of the machine but its kernel.
// pkg is the path of the program's package below the module. It has no race detector, which
// needs cgo. With -trimpath it shares compiled packages with xcaddy's builds.
func StaticBinary(t testing.TB, pkg string) string {
	t.Helper()
	path, err := buildProgram(pkg, []string{"-trimpath"}, []string{"CGO_ENABLED=0"})
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
