package examples

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// unitLines returns the values of a setting in a systemd unit, each line on its own.
func unitLines(unit, name string) (values []string) {
	for _, found := range regexp.MustCompile(`(?m)^`+name+`=(.*)$`).FindAllStringSubmatch(unit, -1) {
		values = append(values, found[1])
	}
	return values
}

// readExample returns a file of examples.
func readExample(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "examples", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// systemd ignores a setting that it does not know, and only writes a line to the journal,
// which nobody reads. The unit's hardening would be missing.
func TestUnitIsValid(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		rig.LeaveOutDeploy(t, "the systemd unit", "apt-get install systemd: %v", err)
	}
	dir := deployDir(t)
	unit := rig.Replaced(t, readExample(t, "systemd/caddy-wx-auth.service"), "/usr/local/bin/caddy", "/bin/true")
	path := filepath.Join(dir, "caddy-wx-auth.service")
	for name, text := range map[string]string{path: unit, path + ".d/credentials.conf": readExample(t, "systemd/credentials.conf")} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command(analyze, "verify", "--man=no", path).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
	// systemd's score goes from 0, the best, to 10, the worst.
	if out, err := exec.Command(analyze, "security", "--offline=true", "--threshold=20", path).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// An operator runs `systemctl reload`. systemd gives both commands of the unit the same
// environment, so the reload must succeed and leave the site where it is. Neither command may
// print the environment, which holds the secrets.
func TestUnitReloadsItsOwnSite(t *testing.T) {
	t.Parallel()
	dir := deployDir(t)
	unit := readExample(t, "systemd/caddy-wx-auth.service")
	g := &rig.Gateway{WeChat: rig.NewWeChat(t), Upstream: rig.NewUpstream(t)}
	site := "http://" + rig.FreeAddress(t)
	example, err := os.ReadFile("../../Caddyfile.example")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "Caddyfile"), example, 0o644); err != nil {
		t.Fatal(err)
	}
	here := strings.NewReplacer("/usr/local/bin/caddy", rig.Binary(t), "/etc/caddy/", dir+"/", "/var/lib/caddy", dir)
	env := []string{
		"CADDY_ADMIN=unix/" + filepath.Join(dir, "admin.sock"), // another Caddy may have the port
		"WX_APPID=" + rig.AppID, "WX_SECRET=" + rig.Secret, "WX_API=" + g.WeChat.URL, "WX_AUTH_SITE=" + site, "WX_AUTH_UPSTREAM=" + g.Upstream.Addr,
	}
	for _, line := range unitLines(unit, "Environment") {
		env = append(env, strings.Fields(here.Replace(line))...)
	}
	start, reload := unitLines(unit, "ExecStart"), unitLines(unit, "ExecReload")
	if len(start) != 1 || len(reload) != 1 || len(unitLines(unit, "EnvironmentFile")) != 1 || strings.Contains(strings.Join(start, ""), "--environ") {
		t.Fatalf("ExecStart %s, ExecReload %s", start, reload)
	}
	command := strings.Fields(here.Replace(start[0]))
	d := startDeployed(t, dir, env, command[0], command[1:]...)
	g.Client = rig.NewClient(t, site)
	p := wantServing(t, g)
	if out, code := d.shell(t, here.Replace(reload[0]), env...); code != 0 {
		t.Errorf("the reload: exit code %d\n%s", code, out)
	}
	if out, code := d.shell(t, here.Replace(reload[0]), slices.DeleteFunc(slices.Clone(env), func(v string) bool { return strings.HasPrefix(v, "WX_") })...); code != 1 {
		t.Errorf("a reload without the unit's environment: exit code %d\n%s", code, out)
	}
	g.HTTP.CloseIdleConnections() // those that the reload has closed
	g.WantSame(t, p, "13800138000")
	if strings.Contains(d.Log.String(), rig.Secret) {
		t.Error("the secret is in the journal")
	}
}
