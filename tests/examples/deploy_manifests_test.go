package examples

import (
	"context"
	"os/exec"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// A misspelt field in the files for compose and Kubernetes has no effect, and nobody notices
// until the effect is needed. A module of its own reads the files with the platforms' types.
func TestManifestsAreValid(t *testing.T) {
	t.Parallel()
	dir := "../manifests"
	if out, err := goDownload(dir); err != nil {
		rig.LeaveOutDeploy(t, "compose.yaml and gateway.yaml", "their types cannot be downloaded: %v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(context.Background(), sdkTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "./...")
	cmd.Dir, cmd.SysProcAttr = dir, rig.ChildAttributes()
	if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "SKIP") {
		t.Errorf("%v\n%s", err, out)
	}
}
