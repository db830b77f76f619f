package rig

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// requireNode makes tests fail, rather than be skipped, if Node is missing or its
// packages cannot be installed. .ci/run sets it.
const requireNode = "WX_AUTH_TEST_REQUIRE_NODE"

// installTime bounds the installation of npm packages.
const installTime = 3 * time.Minute

var nodeHomes sync.Map // directory → func() (string, error)

// NodeHome returns a directory with the npm packages in dir's package-lock.json. They
// are installed once and kept in the user's cache. Without Node, the test is skipped
// with a message that contains what.
func NodeHome(t testing.TB, dir, what string) string {
	t.Helper()
	once, _ := nodeHomes.LoadOrStore(dir, sync.OnceValues(func() (string, error) { return nodeHome(dir) }))
	home, err := once.(func() (string, error))()
	if err != nil {
		LeaveOutNode(t, what, "no node, or no npm packages: %v", err)
	}
	return home
}

// LeaveOutNode skips a test for that reason. If Node and other people's packages are required,
// the test fails instead.
func LeaveOutNode(t testing.TB, what, reason string, args ...any) {
	t.Helper()
	leaveOut(t, requireNode, what, fmt.Sprintf(reason, args...))
}

func nodeHome(dir string) (string, error) {
	if _, err := exec.LookPath("node"); err != nil {
		return "", err
	}
	lock, err := os.ReadFile(filepath.Join(dir, "package-lock.json"))
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(lock)
	home := filepath.Join(cache, "caddy-wx-auth-tests", "node-"+hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(filepath.Join(home, "node_modules")); err == nil {
		return home, nil
	}
	if err := os.MkdirAll(filepath.Dir(home), 0o755); err != nil {
		return "", err
	}
	// Install into another directory first, so that an interrupted installation does
	// not look complete.
	fresh, err := os.MkdirTemp(filepath.Dir(home), "new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(fresh)
	for _, name := range []string{"package.json", "package-lock.json"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(fresh, name), text, 0o644)
		}
		if err != nil {
			return "", err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), installTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir = fresh
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm ci: %w\n%s", err, out)
	}
	if err := os.Rename(fresh, home); err != nil {
		if _, e := os.Stat(filepath.Join(home, "node_modules")); e != nil { // unless another process was faster
			return "", err
		}
	}
	return home, nil
}

// NodeCopy copies directories of sources into home, beside each other, for the time of the
// test, so that their programs find the packages there. For a single directory it returns the
// copy, otherwise the parent of the copies.
func NodeCopy(t testing.TB, home string, dirs ...string) string {
	t.Helper()
	run, err := os.MkdirTemp(home, "run-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(run) })
	for _, dir := range dirs {
		if err := copySources(filepath.Join(run, filepath.Base(dir)), dir); err != nil {
			t.Fatal(err)
		}
	}
	if len(dirs) == 1 {
		return filepath.Join(run, filepath.Base(dirs[0]))
	}
	return run
}

// copySources copies a directory without generated files.
func copySources(to, from string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rest, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		switch name := d.Name(); {
		case d.IsDir() && (name == ".git" || name == "node_modules" || name == "dist" || name == ".bin" || name == ".data"):
			return filepath.SkipDir
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, rest), 0o755)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rest), text, info.Mode().Perm())
	})
}

// CopyTree copies a directory of sources for the time of the test, for commands that write
// files beside the sources.
func CopyTree(t testing.TB, dir string) string {
	t.Helper()
	copied := filepath.Join(t.TempDir(), "copy")
	if err := copySources(copied, dir); err != nil {
		t.Fatal(err)
	}
	return copied
}
