package examples

import (
	"path/filepath"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// People look at the demo's page before they trust the gateway. In Chromium, a person logs in
// on its phone and uses each switch, in both languages.
func TestDemoPage(t *testing.T) {
	t.Parallel()
	runInBrowser(t, "demo.test.js")
}

// A developer makes codes at the simulator's control page, and breaks WeChat there.
func TestSimulatorPage(t *testing.T) {
	t.Parallel()
	runInBrowser(t, "wx-sim.test.js")
}

// runInBrowser runs a file of tests/browser.
func runInBrowser(t *testing.T, file string) {
	t.Helper()
	home := rig.NodeHome(t, "../browser", "the pages in a browser")
	caddyfile, err := filepath.Abs("../../Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	runNodeTests(t, filepath.Join(rig.NodeCopy(t, home, "../browser"), file), "WX_AUTH_TEST_CADDYFILE="+caddyfile)
}
