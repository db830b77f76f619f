package examples

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// deployed is a Caddy that was started as an operator starts it, with its own command line and
// environment.
type deployed struct{ *rig.Program }

// startDeployed runs a command until the end of the test.
func startDeployed(t *testing.T, dir string, env []string, name string, args ...string) *deployed {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env = dir, env
	return &deployed{rig.StartProgram(t, cmd)}
}

// end sends a signal and waits until the process has ended, which must be without an error.
func (d *deployed) end(t *testing.T, signal os.Signal) {
	t.Helper()
	if err := d.Cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	select {
	case <-d.Exited:
		if d.Err != nil {
			t.Errorf("it ended with %v", d.Err)
		}
	case <-time.After(rig.CommandTime):
		t.Errorf("it is still there after %v", signal)
	}
}

// deployDir returns a new directory. Its path is short enough for a socket.
func deployDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "wx-auth-deploy-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// shell runs a command line in d's directory, with its own environment, and returns its output
// and exit code.
func (d *deployed) shell(t *testing.T, line string, env ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), rig.CommandTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", line)
	cmd.Dir, cmd.Env, cmd.SysProcAttr = d.Cmd.Dir, env, rig.ChildAttributes()
	out, err := cmd.CombinedOutput()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// wantServing waits until a gateway works, and logs in through it.
func wantServing(t *testing.T, g *rig.Gateway) rig.Pair {
	t.Helper()
	rig.Await(t, rig.CommandTime, "the gateway works", func() bool { return g.Get("/auth/wx/health", "").Status == 200 })
	return g.MustLogin(t, "13800138000")
}

// The operator started Caddy with `--envfile` and reloads it from a shell that lacks the
// variables. The site must not move to another address, upstream or WeChat: the reload
// succeeds with the process's values, or is refused with exit code 1.
func TestReloadFromAnotherShellMovesNothing(t *testing.T) {
	t.Parallel()
	dir := deployDir(t)
	example, err := os.ReadFile("../../Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	g := &rig.Gateway{WeChat: rig.NewWeChat(t), Upstream: rig.NewUpstream(t)}
	site := "http://" + rig.FreeAddress(t)
	values := map[string]string{
		"WX_APPID": rig.AppID, "WX_SECRET": rig.Secret, "WX_API": g.WeChat.URL, "WX_AUTH_SITE": site, "WX_AUTH_UPSTREAM": g.Upstream.Addr,
	}
	var file strings.Builder
	for name, value := range values {
		file.WriteString(name + "=" + value + "\n")
	}
	for name, text := range map[string]string{"Caddyfile": string(example), "wx.env": file.String()} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(rig.Binary(t), filepath.Join(dir, "caddy")); err != nil {
		t.Fatal(err)
	}
	shell := []string{"PATH=" + dir + ":" + os.Getenv("PATH"), "HOME=" + dir, "CADDY_ADMIN=unix/" + filepath.Join(dir, "admin.sock")}
	_, command, _ := strings.Cut(string(example), "\n#\tcaddy run")
	command, _, _ = strings.Cut(command, "\n")
	_, reload, _ := strings.Cut(string(example), "\n#\t(set -a")
	reload, _, _ = strings.Cut(reload, "\n")

	d := startDeployed(t, dir, shell, "sh", "-c", "exec caddy run"+command)
	g.Client = rig.NewClient(t, site)
	p := wantServing(t, g)
	for name, c := range map[string]struct {
		line string
		env  []string // the variables of this shell
		code int
		says string
	}{
		"none of them":       {"caddy reload --force", nil, 1, "set://WX_AUTH_"},
		"the site":           {"caddy reload --force", []string{"WX_AUTH_SITE"}, 1, "set://WX_AUTH_UPSTREAM"},
		"the upstream":       {"caddy reload --force", []string{"WX_AUTH_UPSTREAM"}, 1, "set://WX_AUTH_SITE"},
		"the mini program":   {"caddy reload --force", []string{"WX_APPID", "WX_SECRET"}, 1, "set://WX_AUTH_"},
		"without WeChat":     {"caddy reload --force", []string{"WX_AUTH_SITE", "WX_AUTH_UPSTREAM"}, 1, "weixin.qq.com"},
		"what the file says": {"(set -a" + reload, nil, 0, ""},
		"those with a $":     {"caddy reload --force", []string{"WX_AUTH_SITE", "WX_AUTH_UPSTREAM", "WX_API"}, 0, ""},
	} {
		env := append([]string(nil), shell...)
		for _, variable := range c.env {
			env = append(env, variable+"="+values[variable])
		}
		out, code := d.shell(t, c.line, env...)
		if code != c.code || !strings.Contains(out, c.says) {
			t.Errorf("a shell with %s: exit code %d, want %d and %q\n%s", name, code, c.code, c.says, out)
		}
		g.HTTP.CloseIdleConnections() // drop connections that a reload has closed
		before := g.Upstream.Hits()
		g.Get("/orders", p.Token).Seen(t).WantHeader(t, "X-WX-USER-ID", p.UserInfo.ID)
		if g.Upstream.Hits() != before+1 {
			t.Errorf("a shell with %s: the upstream is another one", name)
		}
		p = g.WantSame(t, p, "13800138000")
	}
}
