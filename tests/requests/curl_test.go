package requests

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// curlService is a service key.
const curlService = "5f2b8c0d9e1a4f7c6b3d2e8f0a1c9b7d"

var (
	curlLine = regexp.MustCompile(`(?m)^curl (?:.*\\\n)*.*$`)
	says     = regexp.MustCompile(`# (\d{3})(?: (\w+))?`)
)

// curlLines returns the commands of a page that call curl.
func curlLines(t *testing.T, page string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", page))
	if err != nil {
		t.Fatal(err)
	}
	return curlLine.FindAllString(string(text), -1)
}

// paste runs a command of a page in a shell. It returns what curl printed, and its status.
func paste(t *testing.T, line, settings string, env ...string) (out string, status int) {
	t.Helper()
	home := t.TempDir()
	settings += "write-out = \"\\n%{stderr}%{http_code}\"\nmax-time = 20\nnoproxy = \"*\"\n"
	if err := os.WriteFile(filepath.Join(home, ".curlrc"), []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bash", "-c", "set -o pipefail\n"+line)
	var printed, stderr strings.Builder
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = &printed, &stderr, rig.ChildAttributes()
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + home}, env...)
	err := cmd.Run()
	lines := strings.Split(stderr.String(), "\n")
	if _, e := fmt.Sscan(lines[len(lines)-1], &status); err != nil || e != nil {
		t.Errorf("%s: %v\n%s\n%s", line, err, printed.String(), stderr.String())
	}
	return printed.String(), status
}

func needCurl(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("curl"); err != nil {
		rig.LeaveOutDeploy(t, "the pages' curl commands", "%v: apt-get install curl", err)
	}
}

// A reader pastes the curl commands of a page to see that a gateway works. Each of them runs,
// and answers what its comment says, or else that all is well.
func TestPagesCurlCommandsAnswerAsSaid(t *testing.T) {
	t.Parallel()
	needCurl(t)
	g := newGuard(t, guardSite("credential cookie", "service_key "+curlService))
	pair := g.login(t, "13800138000")
	tried := make(map[string]bool)
	for _, page := range []string{"backends.md", "browsers.md", "deploy.md", "http-api.md", "operations.md", "upgrade.md", "users.md"} {
		for _, page := range rig.InBothLanguages(page) {
			lines := curlLines(t, page)
			if len(lines) == 0 {
				t.Errorf("docs/%s has no curl command", page)
			}
			for _, line := range lines {
				if tried[line] {
					continue
				}
				tried[line] = true
				codes := g.wx.Tap(t, "13800138000")
				run := strings.NewReplacer("https://api.example.com", "http://"+g.Addr, `"code":"…"`, `"code":"`+codes.Code+`"`,
					`"phoneCode":"…"`, `"phoneCode":"`+codes.PhoneCode+`"`, `"appid":"wx…"`, `"appid":"`+rig.AppID+`"`).Replace(line)
				out, status := paste(t, run, "", "TOKEN="+pair.Token, "id="+pair.UserInfo.ID, "WX_AUTH_SERVICE_KEY="+curlService)
				want, word := "200 204", ""
				if m := says.FindStringSubmatch(line); m != nil {
					want, word = m[1], m[2]
				}
				if !strings.Contains(want, fmt.Sprint(status)) || !strings.Contains(out, word) {
					t.Errorf("docs/%s: %s\n%d, want %s %s\n%s", page, line, status, want, word, out)
				}
			}
		}
	}
}

// The curl commands of docs/forward-auth.md, through the two proxies whose configurations it
// prints.
func TestForwardAuthCurlCommandsAnswerAsSaid(t *testing.T) {
	t.Parallel()
	needCurl(t)
	for name, start := range map[string]func(*testing.T) *asker{"nginx": behindNginx, "caddy": behindCaddy} {
		t.Run(name, func(t *testing.T) {
			p := start(t)
			token := p.auth.login(t, "13800138000").Token
			_, proxy, _ := net.SplitHostPort(p.addr)
			_, gateway, _ := net.SplitHostPort(p.auth.Addr)
			settings := "connect-to = \"app.example.com:80:127.0.0.1:" + proxy + "\"\nconnect-to = \"127.0.0.1:8080:127.0.0.1:" + gateway + "\"\n"
			for _, page := range rig.InBothLanguages("forward-auth.md") {
				lines := curlLines(t, page)
				want := []struct {
					status int
					text   string
				}{{401, "token_missing"}, {401, "token_missing"}, {200, `"uri":"/auth/wx/verify"`}, {204, "x-wx-user-id: "}}
				if len(lines) != len(want) {
					t.Fatalf("docs/%s has other commands: %q", page, lines)
				}
				for i, line := range lines {
					out, status := paste(t, line, settings, "TOKEN="+token)
					if status != want[i].status || !strings.Contains(strings.ToLower(out), want[i].text) {
						t.Errorf("docs/%s: %s\n%d, want %v\n%s", page, line, status, want[i], out)
					}
				}
			}
		})
	}
}
