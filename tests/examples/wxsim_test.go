package examples

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// sdkTime bounds one login of an SDK, its compilation included.
const sdkTime = 5 * time.Minute

// The simulator works with every WeChat client, not only with ours: SDKs that other teams
// wrote log in at cmd/wx-sim with nothing changed but the host.
func TestSimulatorServesOtherSDKs(t *testing.T) {
	t.Parallel()
	base := rig.StartSimulator(t, "-app", rig.AppID+":"+rig.Secret)
	for name, command := range map[string]func(t *testing.T) *exec.Cmd{
		"node-easywechat": func(t *testing.T) *exec.Cmd {
			home := rig.NodeHome(t, "../sdk/easywechat", "the login with node-easywechat")
			cmd := exec.Command("node", "login.mjs")
			cmd.Dir = rig.NodeCopy(t, home, "../sdk/easywechat")
			return cmd
		},
		"silenceper/wechat": func(t *testing.T) *exec.Cmd {
			cmd := exec.Command("go", "test", "-count=1", "./...")
			cmd.Dir = filepath.Join("..", "sdk", "silenceper")
			if out, err := goDownload(cmd.Dir); err != nil {
				rig.LeaveOutNode(t, "the login with silenceper/wechat", "%v\n%s", err, out)
			}
			return cmd
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), sdkTime)
			defer cancel()
			one := command(t)
			cmd := exec.CommandContext(ctx, one.Path, one.Args[1:]...)
			codes := mintAt(t, base)
			cmd.Dir, cmd.SysProcAttr = one.Dir, rig.ChildAttributes()
			cmd.Env = append(os.Environ(), "WX_API="+base, "WX_APPID="+rig.AppID, "WX_SECRET="+rig.Secret,
				"CODE="+codes.Code, "PHONE_CODE="+codes.PhoneCode, "OPENID="+codes.OpenID)
			out, err := cmd.CombinedOutput()
			if err != nil || strings.Contains(string(out), "SKIP") {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// goDownload fetches what a module requires, which may need the network.
func goDownload(dir string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), sdkTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "mod", "download")
	cmd.Dir = dir
	return cmd.CombinedOutput()
}

// mintAt simulates a tap on the phone button at a simulator in another process.
func mintAt(t *testing.T, base string) (codes wechattest.Codes) {
	t.Helper()
	body := `{"appid": "` + rig.AppID + `", "phone": "13800138000"}`
	resp, err := http.Post(base+"/_control/codes", "application/json", bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&codes); err != nil {
		t.Fatal(err)
	}
	return codes
}
