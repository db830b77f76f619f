package tests

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// clientTime bounds the client's tests, which wait between retries as a real client
// does.
const clientTime = 5 * time.Minute

// The client package does the part of a login that happens on the phone. Its own tests
// run against fakes, and against this gateway with the simulator.
func TestClientOfMiniPrograms(t *testing.T) {
	home := rig.NodeHome(t, "../client", "the tests of client/")
	dir := rig.NodeCopy(t, home, "../client")
	files, err := filepath.Glob(filepath.Join(dir, "test", "*.test.js"))
	if err != nil || len(files) < 4 {
		t.Fatalf("%d files with tests: %v", len(files), err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), clientTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", append([]string{"--test"}, files...)...)
	cmd.Dir, cmd.SysProcAttr = dir, rig.ChildAttributes()
	cmd.Env = append(os.Environ(), "WX_AUTH_TEST_CADDY="+rig.Binary(t), "WX_AUTH_TEST_SIM="+rig.Simulator(t))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("node --test: %v\n%s", err, out)
	}
}
