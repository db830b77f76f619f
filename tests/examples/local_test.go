//go:build !windows

package examples

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// localTime bounds the time that examples/local takes to compile and install.
const localTime = 10 * time.Minute

var localAddress = regexp.MustCompile(`http://(?:localhost|127\.0\.0\.1):\d+`)

// A developer who has never seen WeChat's console copies the commands of
// examples/local/README.md, one block after the other, and has the shop in a browser.
func TestLocalShopByItsREADME(t *testing.T) {
	t.Parallel()
	if !rig.Long && os.Getenv("WX_AUTH_TEST_REQUIRE_NODE") == "" {
		t.Skip("LEFT OUT: the commands of examples/local/README.md, which compile and install for minutes (WX_AUTH_TEST_LONG=1 runs them)")
	}
	if _, err := exec.LookPath("npm"); err != nil {
		rig.LeaveOutNode(t, "examples/local", "%v", err)
	}
	dir := rig.CopyTree(t, "../..")
	readme := filepath.Join(dir, "examples", "local", "README.md")
	port := func() string { _, p, _ := net.SplitHostPort(rig.FreeAddress(t)); return p }
	gateway := port()
	// If CI is set, vite prints colours in its address.
	env := append(os.Environ(), "NO_COLOR=1", "PORT="+gateway, "WX_SIM_PORT="+port(), "API_PORT="+port())

	up := startShell(t, dir, env, rig.ReadmeBlock(t, readme, "examples/local/up\n"))
	rig.Await(t, localTime, "the API answers through the gateway", func() bool { return strings.Contains(page("http://127.0.0.1:"+gateway+"/goods"), "Longjing") })
	if !strings.Contains(up.String(), gateway) {
		t.Errorf("up does not print the gateway's address:\n%s", up.String())
	}

	shop := startShell(t, dir, env, rig.ReadmeBlock(t, readme, "npm run dev:h5"))
	rig.Await(t, localTime, "npm prints the page's address", func() bool { return localAddress.MatchString(shop.String()) })
	address := localAddress.FindString(shop.String())
	rig.Await(t, time.Minute, "the page is there", func() bool { return strings.Contains(page(address), "/src/main.js") })
	if goods := page(address + "/goods"); !strings.Contains(goods, "Longjing") {
		t.Errorf("the page's goods: %s", goods)
	}
	if source := page(address + "/src/auth.js"); !strings.Contains(source, "createAuth") {
		t.Errorf("the page's client: %s", source)
	}
}

// startShell runs commands, and everything that they start, until the end of the test.
func startShell(t *testing.T, dir string, env []string, commands string) *rig.Log {
	t.Helper()
	log := new(rig.Log)
	cmd := exec.CommandContext(context.Background(), "sh", "-ec", commands)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, env, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s\n%s", commands, log.String())
		}
	})
	return log
}

// page returns the body of the answer at an address, or an empty text.
func page(address string) string {
	resp, err := http.Get(address)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return string(body)
}
