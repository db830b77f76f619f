package operation

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

const faultKey = "0123456789abcdef0123456789abcdef"

// faulty is a gateway that is about to meet a fault.
type faulty struct {
	*rig.Gateway
	db     *rig.Server // nil: it has a file on disk
	disk   string
	pair   rig.Pair
	silent wechattest.Codes
	phone  wechattest.Codes
}

// fault is something that happens to a gateway started by start.
type fault struct {
	name   string
	start  func(t *testing.T) *faulty
	begin  func(t *testing.T, f *faulty)
	remedy string // a part of the remedy that the log must have
}

// onPostgres starts a gateway on its own PostgreSQL.
func onPostgres(t *testing.T) *faulty {
	f := &faulty{db: rig.NewServer(t, "postgres")}
	f.Gateway = rig.NewReplicas(t, f.db.Database, 1, "service_key "+faultKey)[0]
	return f
}

// onSmallDisk starts a gateway whose file is on a disk of a few megabytes.
func onSmallDisk(t *testing.T) *faulty {
	f := &faulty{disk: t.TempDir()}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", f.disk).CombinedOutput(); err != nil {
		rig.LeaveOutDeploy(t, "a full disk", "mount: %v %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("umount", "--lazy", f.disk).Run() })
	f.Gateway = rig.NewGateway(t, "store sqlite:"+filepath.Join(f.disk, "wx.db"), "service_key "+faultKey)
	return f
}

// fillDisk leaves no byte free, and logs in until SQLite has used up its reserve.
func fillDisk(t *testing.T, f *faulty) {
	file, err := os.Create(filepath.Join(f.disk, "other"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for err == nil {
		_, err = file.Write(make([]byte, 512))
	}
	for i := range 5000 {
		codes := f.WeChat.Tap(t, fmt.Sprintf("139%08d", i))
		if a := f.Login(codes.Code, codes.PhoneCode); a.Status == http.StatusServiceUnavailable {
			return
		}
	}
	t.Fatal("logins go on without end")
}

var faults = []fault{
	{"the disk is full", onSmallDisk, fillDisk, "free space on the disk"},
	{"the database is stopped", onPostgres, func(_ *testing.T, f *faulty) { f.db.Stop() }, "check that the database runs"},
	{"the database is read-only", onPostgres, func(t *testing.T, f *faulty) {
		f.db.Run(t, "ALTER SYSTEM SET default_transaction_read_only = on")
		f.db.Run(t, "SELECT pg_reload_conf()")
	}, "connect to the server that takes writes"},
	{"WeChat is away", onPostgres, func(t *testing.T, f *faulty) {
		if err := f.WeChat.Inject(wechattest.Fault{Kind: wechattest.Reset, Count: -1}); err != nil {
			t.Fatal(err)
		}
	}, "check that this machine reaches the host"},
}

// Whatever fails, each refusal of each endpoint is counted once and has a log line with its
// request id, and the log says what to do.
func TestFaultsAreCountedAndExplained(t *testing.T) {
	t.Parallel()
	for _, c := range faults {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := c.start(t)
			f.pair = f.MustLogin(t, "13800138000")
			f.silent, f.phone = f.WeChat.Open(t, "13800138000"), f.WeChat.Tap(t, "13800138000")
			key := "Authorization: Bearer " + faultKey
			user := "/auth/wx/service/users/" + f.pair.UserInfo.ID
			before := len(f.Caddy.Log.String())
			c.begin(t, f)
			refused := 0
			for _, ask := range []struct {
				what string
				do   func() rig.Answer
			}{
				{"a phone login", func() rig.Answer { return f.Login(f.phone.Code, f.phone.PhoneCode) }},
				{"a silent login", func() rig.Answer { return f.Silent(f.silent.Code) }},
				{"a refresh", func() rig.Answer { return f.Refresh(f.pair.RefreshToken) }},
				{"me", func() rig.Answer { return f.Me(f.pair.Token) }},
				{"the sessions", func() rig.Answer { return f.Get("/auth/wx/sessions", f.pair.Token) }},
				{"the end of a session", func() rig.Answer {
					return f.Do(http.MethodDelete, "/auth/wx/sessions/x", nil, rig.Bearer(f.pair.Token)...)
				}},
				{"a change of number", func() rig.Answer {
					return f.Do(http.MethodPost, "/auth/wx/phone", map[string]string{"phoneCode": f.phone.PhoneCode}, rig.Bearer(f.pair.Token)...)
				}},
				{"a user", func() rig.Answer { return f.Do(http.MethodGet, user, nil, key) }},
				{"the users", func() rig.Answer { return f.Do(http.MethodGet, "/auth/wx/service/users", nil, key) }},
				{"an export", func() rig.Answer { return f.Do(http.MethodGet, user+"/export", nil, key) }},
				{"a revocation", func() rig.Answer {
					return f.Do(http.MethodPost, "/auth/wx/service/revoke", map[string]string{"userId": "somebody"}, key)
				}},
				{"a disabling", func() rig.Answer { return f.Do(http.MethodPatch, user, map[string]bool{"disabled": true}, key) }},
				{"an erasure", func() rig.Answer { return f.Do(http.MethodDelete, "/auth/wx/service/users/somebody", nil, key) }},
				{"a logout", func() rig.Answer { return f.Logout(f.pair.Token, "", false) }},
			} {
				counts := func() float64 {
					m := f.Caddy.Metrics(t)
					return m.Sum("caddy_wx_auth_logins_total") - m.Sum("caddy_wx_auth_logins_total", `outcome="ok"`) +
						m.Sum("caddy_wx_auth_refreshes_total") - m.Sum("caddy_wx_auth_refreshes_total", `outcome="ok"`) + m.Sum("caddy_wx_auth_requests_refused_total")
				}
				was := counts()
				a := ask.do()
				if a.Err != nil {
					t.Errorf("%s: %v", ask.what, a.Err)
					continue
				}
				if a.Status < 500 {
					continue
				}
				refused++
				id := a.Problem(t).RequestID
				rig.Await(t, rig.CommandTime, ask.what+" is counted", func() bool { return counts() > was })
				if n := counts() - was; n != 1 {
					t.Errorf("%s was counted %v times", ask.what, n)
				}
				f.Caddy.Log.Wait(t, rig.CommandTime, `"logger":"http.handlers.wx_auth"`, `"requestId":"`+id+`"`)
			}
			if refused == 0 {
				t.Error("nothing was refused")
			}
			log := f.Caddy.Log.String()[before:]
			found := false
			for _, line := range loud(log) {
				_, remedy, _ := strings.Cut(line, `"remedy":"`)
				found = found || strings.Contains(remedy, c.remedy)
			}
			if !found {
				t.Errorf("no line says %q:\n%s", c.remedy, strings.Join(loud(log), ""))
			}
			wantRemedies(t, log)
		})
	}
}

// A process without a free file descriptor refuses logins and says why. The same codes work
// once a descriptor is free.
func TestNoDescriptorIsLeft(t *testing.T) {
	t.Parallel()
	r := rig.NewGateway(t)
	limit := func(soft string) {
		if out, err := exec.Command("prlimit", "--pid", strconv.Itoa(r.Caddy.PID()), "--nofile="+soft+":").CombinedOutput(); err != nil {
			rig.LeaveOutDeploy(t, "a process without descriptors", "prlimit: %v %s", err, out)
		}
	}
	r.Get("/", "").WantProblem(t, http.StatusUnauthorized, "token_missing", nil) // this connection stays open
	codes := r.WeChat.Tap(t, "13800138000")
	limit("3")
	a := r.Login(codes.Code, codes.PhoneCode)
	if a.Status != http.StatusServiceUnavailable || !slices.Equal(a.Problem(t).Renew, []string{}) {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	r.Caddy.Log.Wait(t, rig.CommandTime, "raise the limit of open files")
	limit("1024")
	rig.Await(t, rig.CommandTime, "the same codes log in", func() bool { return r.Login(codes.Code, codes.PhoneCode).Status == http.StatusOK })
	if n := r.WeChat.PhoneOK(); n != 1 {
		t.Errorf("the phone code was exchanged %d times", n)
	}
}
