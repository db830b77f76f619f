package examples

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
	t.Parallel()
	home := rig.NodeHome(t, "../../client", "the tests of client/")
	runNodeTests(t, filepath.Join(rig.NodeCopy(t, home, "../../client"), "test", "*.test.js"))
}

// The pages of the plain shop run in miniprogram-simulate.
func TestExampleMiniProgram(t *testing.T) {
	t.Parallel()
	runExample(t, "miniprogram")
}

// The uni-app shop is built by its own tool chain, which takes minutes, and runs in Chromium.
func TestExampleUniApp(t *testing.T) {
	t.Parallel()
	if !rig.Long && os.Getenv("WX_AUTH_TEST_REQUIRE_NODE") == "" {
		t.Skip("LEFT OUT: the builds of examples/uni-app, which take minutes (WX_AUTH_TEST_LONG=1 runs them)")
	}
	runExample(t, "uni-app")
}

func runExample(t *testing.T, name string) {
	t.Helper()
	home := rig.NodeHome(t, filepath.Join("../../examples/test", name), "the tests of examples/"+name)
	run := rig.NodeCopy(t, home, "../../examples", "../../client")
	packages := filepath.Join(run, "node_modules")
	if err := os.Mkdir(packages, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(run, "client"), filepath.Join(packages, "caddy-wx-auth")); err != nil {
		t.Fatal(err)
	}
	runNodeTests(t, filepath.Join(run, "examples", "test", name, "*.test.js"))
}

// runNodeTests runs the tests of those files with this gateway and the simulator, and with
// further environment variables.
func runNodeTests(t *testing.T, pattern string, env ...string) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no files %s: %v", pattern, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), clientTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", append([]string{"--test", "--test-reporter=spec"}, files...)...)
	cmd.Dir, cmd.SysProcAttr = filepath.Dir(files[0]), rig.ChildAttributes()
	cmd.Env = append(append(os.Environ(), env...), "WX_AUTH_TEST_CADDY="+rig.Binary(t), "WX_AUTH_TEST_SIM="+rig.Simulator(t))
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
