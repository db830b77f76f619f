package tests

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// clientTime bounds the client's tests, which wait between retries as a real client
// does.
const clientTime = 10 * time.Minute

// The client package does the part of a login that happens on the phone. Its own tests
// run against fakes, and against this gateway with the simulator.
func TestClientOfMiniPrograms(t *testing.T) {
	home := rig.NodeHome(t, "../client", "the tests of client/")
	runNodeTests(t, filepath.Join(rig.NodeCopy(t, home, "../client"), "test", "*.test.js"))
}

// The shops of examples/, built by uni-app's own tool chain and run in Chromium and in
// miniprogram-simulate.
func TestExamplesOfMiniPrograms(t *testing.T) {
	home := rig.NodeHome(t, "../examples/test", "the tests of examples/")
	run := rig.NodeCopy(t, home, "../examples", "../client")
	packages := filepath.Join(run, "node_modules")
	if err := os.Mkdir(packages, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(run, "client"), filepath.Join(packages, "caddy-wx-auth")); err != nil {
		t.Fatal(err)
	}
	files := filepath.Join(run, "examples", "test", "*.test.js")
	if !rig.Long && os.Getenv("WX_AUTH_TEST_REQUIRE_NODE") == "" {
		t.Log("LEFT OUT: the builds of examples/uni-app, which take minutes (WX_AUTH_TEST_LONG=1 runs them)")
		files = filepath.Join(run, "examples", "test", "miniprogram.test.js")
	}
	runNodeTests(t, files)
}

// runNodeTests runs the tests of those files with this gateway and the simulator.
func runNodeTests(t *testing.T, pattern string) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no files %s: %v", pattern, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), clientTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", append([]string{"--test", "--test-reporter=spec"}, files...)...)
	cmd.Dir, cmd.SysProcAttr = filepath.Dir(files[0]), rig.ChildAttributes()
	cmd.Env = append(os.Environ(), "WX_AUTH_TEST_CADDY="+rig.Binary(t), "WX_AUTH_TEST_SIM="+rig.Simulator(t))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("node --test: %v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "LEFT OUT") {
			t.Log(strings.TrimSpace(line))
		}
	}
}
