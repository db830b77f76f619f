package examples

import (
	"debug/elf"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// image holds the instructions of the last stage of the example's Dockerfile.
type image struct {
	copies      [][2]string // source and destination of COPY; sources of the first stage begin with /
	owned       []string    // destinations that belong to the user
	env         []string
	user        string
	volumes     []string
	entrypoint  []string
	command     []string
	healthcheck []string
}

// readDockerfile reads the instructions that the example uses. The test ends at another
// instruction, or at another form of one.
func readDockerfile(t *testing.T, path string) (m image) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, last, ok := strings.Cut(string(text), "\nFROM scratch\n")
	if !ok {
		t.Fatal("the last stage does not begin with FROM scratch")
	}
	list := func(s string) (words []string) {
		if err := json.Unmarshal([]byte(s), &words); err != nil {
			t.Fatalf("%q is not in the exec form, and there is no shell: %v", s, err)
		}
		return words
	}
	for line := range strings.Lines(last) {
		instruction, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch instruction {
		case "COPY":
			words := strings.Fields(rest)
			from := slices.Contains(words, "--from=build")
			owned := slices.Contains(words, "--chown=65532:65532")
			words = slices.DeleteFunc(words, func(w string) bool { return w == "--from=build" || w == "--chown=65532:65532" })
			if len(words) != 2 || strings.HasPrefix(words[0], "/") != from {
				t.Fatalf("COPY %s", rest)
			}
			m.copies = append(m.copies, [2]string(words))
			if owned {
				m.owned = append(m.owned, words[1])
			}
		case "ENV":
			m.env = append(m.env, strings.Fields(rest)...)
		case "USER":
			m.user = rest
		case "VOLUME":
			m.volumes = append(m.volumes, rest)
		case "ENTRYPOINT":
			m.entrypoint = list(rest)
		case "CMD":
			m.command = list(rest)
		case "HEALTHCHECK":
			_, command, _ := strings.Cut(rest, "CMD ")
			m.healthcheck = list(command)
		case "EXPOSE", "":
		default:
			t.Fatalf("this test does not know %s", instruction)
		}
	}
	return m
}

// root lays out the image's root directory. built maps files of the first stage to files here;
// changed replaces texts in files of the repository.
func (m image) root(t *testing.T, built map[string]string, changed ...string) string {
	t.Helper()
	root := deployDir(t)
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(to string, text []byte, mode os.FileMode) {
		to = filepath.Join(root, to)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, text, mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range m.copies {
		from, to := c[0], c[1]
		switch here := built[from]; {
		case here == "directory":
			if err := os.MkdirAll(filepath.Join(root, to), 0o755); err != nil {
				t.Fatal(err)
			}
		case here != "":
			text, err := os.ReadFile(here)
			if err != nil {
				t.Fatal(err)
			}
			put(to, text, 0o755)
		case strings.HasPrefix(from, "/"):
			t.Fatalf("the Dockerfile copies %s, and this test does not know from where", from)
		default: // a file of the repository
			text, err := os.ReadFile(filepath.Join("..", "..", from))
			if err != nil {
				t.Fatalf("the Dockerfile copies %s: %v", from, err)
			}
			put(to, []byte(strings.NewReplacer(changed...).Replace(string(text))), 0o644)
		}
	}
	for _, dir := range m.owned {
		if err := os.Chown(filepath.Join(root, dir), 65532, 65532); err != nil {
			t.Fatal(err)
		}
	}
	// A container runtime mounts these two files.
	put("/etc/hosts", []byte("127.0.0.1 localhost\n"), 0o644)
	put("/etc/resolv.conf", nil, 0o644)
	return root
}

// contained returns the command line that runs a program as the image's user in a read-only
// root. Only the volume can be written, which is the directory data.
func (m image) contained(root, data string, args ...string) []string {
	script := `root=$1 data=$2; shift 2
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount --bind "$data" "$root` + m.volumes[0] + `"
exec setpriv --no-new-privs chroot --userspec=` + m.user + ` --groups= "$root" "$@"`
	return append([]string{"unshare", "--mount", "--propagation", "private", "sh", "-euc", script, "sh", root, data}, args...)
}

// wantContained fails the test unless the process has the image's user, no capability, and a
// read-only root.
func wantContained(t *testing.T, pid int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`Uid:(\t65532){4}`, `Gid:(\t65532){4}`, `CapEff:\t0+`, `CapPrm:\t0+`, `NoNewPrivs:\t1`} {
		if !regexp.MustCompile(`(?m)^` + want + `$`).Match(status) {
			t.Errorf("no %s in\n%s", want, status)
		}
	}
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`(?m)^\d+ \d+ \S+ \S+ / ro[, ]`).Match(mounts) {
		t.Errorf("the root can be written:\n%s", mounts)
	}
}

// static returns the image's programs, built as the Dockerfile builds them except for xcaddy,
// which a step of .ci/run runs. The programs must need no library.
func (m image) static(t *testing.T) map[string]string {
	t.Helper()
	built := map[string]string{
		"/out/caddy":                         rig.StaticBinary(t, "cmd/caddy"),
		"/out/live":                          rig.StaticBinary(t, "examples/docker/live"),
		"/out/data":                          "directory",
		"/etc/ssl/certs/ca-certificates.crt": "/etc/ssl/certs/ca-certificates.crt",
	}
	for _, name := range []string{"/out/caddy", "/out/live"} {
		f, err := elf.Open(built[name])
		if err != nil {
			t.Fatal(err)
		}
		libraries, _ := f.ImportedLibraries()
		for _, p := range f.Progs {
			if p.Type == elf.PT_INTERP || len(libraries) > 0 {
				t.Errorf("%s is not static: %s", name, libraries)
			}
		}
		f.Close()
	}
	return built
}

// A team deploys examples/docker. The image has no shell, no library and no privileged user.
// The gateway, the sample API and the health check must run in a root that has only the files
// of the Dockerfile and cannot be written.
func TestImageRunsInAnEmptyRoot(t *testing.T) {
	t.Parallel()
	m := readDockerfile(t, "../../examples/docker/Dockerfile")
	if m.user != "65532:65532" || len(m.volumes) != 1 {
		t.Errorf("user %s, volumes %s", m.user, m.volumes)
	}
	if os.Getuid() != 0 {
		rig.LeaveOutDeploy(t, "the image", "only root can change its root directory")
	}
	if out, err := exec.Command("unshare", "--mount", "true").CombinedOutput(); err != nil {
		rig.LeaveOutDeploy(t, "the image", "a mount namespace: %v %s", err, out)
	}
	db := rig.NewDatabase(t, "postgres")
	g := &rig.Gateway{WeChat: rig.NewWeChat(t)}
	site, health, api := rig.FreeAddress(t), rig.FreeAddress(t), rig.FreeAddress(t)
	changed := []string{"http://127.0.0.1:8080", "http://" + health}
	root := m.root(t, m.static(t), changed...)
	sample, err := os.ReadFile("../../examples/docker/api.Caddyfile")
	if err != nil {
		t.Fatal(err)
	}
	// compose.yaml mounts this file.
	if err := os.WriteFile(filepath.Join(root, "etc/caddy/api.Caddyfile"), []byte(rig.Replaced(t, string(sample), ":3000 {", "http://"+api+" {")), 0o644); err != nil {
		t.Fatal(err)
	}
	volume := func() string {
		data := deployDir(t)
		if err := os.Chown(data, 65532, 65532); err != nil {
			t.Fatal(err)
		}
		return data
	}
	start := func(command []string, env ...string) *deployed {
		// Each container has its own network, and therefore its own admin endpoint.
		env = append(append(env, m.env...), "CADDY_ADMIN="+rig.FreeAddress(t))
		line := m.contained(root, volume(), append(slices.Clone(m.entrypoint), command...)...)
		return startDeployed(t, "/", append(env, "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin"), line[0], line[1:]...)
	}
	healthy := func() bool {
		line := m.contained(root, volume(), m.healthcheck...)
		for i, word := range line {
			line[i] = strings.NewReplacer(changed...).Replace(word)
		}
		return exec.Command(line[0], line[1:]...).Run() == nil
	}
	if healthy() {
		t.Error("the health check says yes without a gateway")
	}
	start([]string{"run", "--config", "/etc/caddy/api.Caddyfile"})
	d := start(m.command, append(db.Environ(), "WX_APPID="+rig.AppID, "WX_SECRET="+rig.Secret, "WX_API="+g.WeChat.URL,
		"WX_AUTH_SITE=http://"+site, "WX_AUTH_UPSTREAM="+api)...)
	g.Client = rig.NewClient(t, "http://"+site)
	rig.Await(t, rig.CommandTime, "the health check says yes", healthy)
	p := wantServing(t, g)
	wantContained(t, d.Cmd.Process.Pid)
	if a := g.Get("/", p.Token); a.Status != http.StatusOK || a.Body != "user "+p.UserInfo.ID+", phone +8613800138000" {
		t.Errorf("%d %s %v", a.Status, a.Body, a.Err)
	}
	g.Get("/", "").WantProblem(t, http.StatusUnauthorized, "token_missing", nil)
	d.end(t, syscall.SIGTERM)
	if log := d.Log.String(); strings.Contains(log, `"level":"error"`) {
		t.Error("there are errors in the log")
	}
}
