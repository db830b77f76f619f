package examples

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// A reader copies the lines that start Caddy from a page, and fills in values. A user can log
// in, and doctor finds nothing wrong. Two variables come from the environment: the simulator's
// address, and an address for the admin endpoint, whose usual port other tests need too.
func TestStartIsCopiedFromThePage(t *testing.T) {
	t.Parallel()
	for _, page := range []string{"../../README.md", "../../README.zh-CN.md", "../../docs/deploy.md", "../../docs/zh/deploy.md"} {
		starts := []string{"cp Caddyfile.example Caddyfile\n"}
		if strings.HasSuffix(page, "deploy.md") {
			starts = append(starts, "cat > wx.env")
		}
		for _, start := range starts {
			t.Run(page+" "+strings.Fields(start)[0], func(t *testing.T) {
				t.Parallel()
				wantStartOf(t, rig.ReadmeBlock(t, page, start))
			})
		}
	}
}

// wantStartOf starts Caddy by a shell block, in a directory with the files that a clone and a
// build leave there.
func wantStartOf(t *testing.T, block string) {
	t.Helper()
	g := &rig.Gateway{WeChat: rig.NewWeChat(t), Upstream: rig.NewUpstream(t)}
	dir, site := deployDir(t), "http://"+rig.FreeAddress(t)
	example, err := os.ReadFile("../../Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Caddyfile.example", "Caddyfile"} { // one block copies it, another block expects the copy
		if err := os.WriteFile(filepath.Join(dir, name), example, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(rig.Binary(t), filepath.Join(dir, "caddy")); err != nil {
		t.Fatal(err)
	}
	block = rig.Replaced(t, block, "wx…", rig.AppID, "WX_SECRET=…", "WX_SECRET="+rig.Secret,
		"api.example.com", site, "localhost:3000", g.Upstream.Addr)
	block = strings.Replace(block, "go run ./cmd/build -o caddy\n", "", 1) // other tests build
	first, command, _ := strings.Cut(strings.TrimSuffix(block, "\n"), "./caddy run")
	lines := strings.Split(first, "\n")
	lines[len(lines)-1] = "exec env " + lines[len(lines)-1] // Caddy replaces the shell, so that the test ends Caddy
	block = strings.Join(lines, "\n") + "./caddy run" + command

	d := startDeployed(t, dir, []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "WX_API=" + g.WeChat.URL, "CADDY_ADMIN=unix/" + filepath.Join(dir, "admin.sock"),
	}, "sh", "-eu", "-c", block)
	g.Client = rig.NewClient(t, site)
	wantServing(t, g)
	line := "./caddy wx-auth doctor --config Caddyfile"
	if _, err := os.Stat(filepath.Join(dir, "wx.env")); err == nil {
		line += " --envfile wx.env"
	}
	out, code := d.shell(t, line, append(d.Cmd.Env, "WX_APPID="+rig.AppID, "WX_SECRET="+rig.Secret,
		"WX_AUTH_SITE="+site, "WX_AUTH_UPSTREAM="+g.Upstream.Addr)...)
	if code != 0 || !strings.Contains(out, "accepts the secret") {
		t.Errorf("doctor ends with %d:\n%s", code, out)
	}
}
