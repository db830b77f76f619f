package directories

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// requireNode makes a missing Node, or packages that cannot be installed, a failure.
// .ci/run sets it.
const requireNode = "WX_AUTH_TEST_REQUIRE_NODE"

// installTime bounds the installation of the npm packages.
const installTime = 3 * time.Minute

// nodeHome is a directory with the packages of testdata/node, installed once and kept
// in the user's cache.
var nodeHome = sync.OnceValues(func() (string, error) {
	if _, err := exec.LookPath("node"); err != nil {
		return "", err
	}
	lock, err := os.ReadFile("testdata/node/package-lock.json")
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
	// Beside it first: what is broken off is not taken for done.
	fresh, err := os.MkdirTemp(filepath.Dir(home), "new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(fresh)
	for _, name := range []string{"package.json", "package-lock.json"} {
		text, err := os.ReadFile(filepath.Join("testdata/node", name))
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
		if _, e := os.Stat(filepath.Join(home, "node_modules")); e != nil { // another was faster, else
			return "", err
		}
	}
	return home, nil
})

// startNode runs a program in JavaScript until the test's end, and waits until it
// listens at the address.
func startNode(t testing.TB, program, address string, env ...string) (stop func()) {
	t.Helper()
	home, err := nodeHome()
	if err != nil {
		if os.Getenv(requireNode) != "" {
			t.Fatalf("%s is set, and the programs of the README cannot be run: %v", requireNode, err)
		}
		t.Skipf("LEFT OUT: the README's programs in JavaScript, which need node and npm: %v (%s=1 makes this a failure)", err, requireNode)
	}
	dir, err := os.MkdirTemp(home, "run-")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "program.mjs")
	if err := os.WriteFile(file, []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	var log rig.Log
	cmd := exec.Command("node", file)
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = dir, &log, &log, rig.ChildAttributes()
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}, env...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(func() {
		stop()
		os.RemoveAll(dir)
		if t.Failed() {
			t.Logf("the program says:\n%s", log.String())
		}
	})
	rig.Await(t, 30*time.Second, "the program listens", func() bool {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return stop
}
