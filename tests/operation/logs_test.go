package operation

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// loud returns the lines at WARN and above that our plugin has written.
func loud(log string) (lines []string) {
	for line := range strings.Lines(log) {
		ours := strings.Contains(line, `"logger":"http.handlers.wx_auth"`) || strings.Contains(line, `"logger":"wx_auth"`)
		if ours && (strings.HasPrefix(line, `{"level":"warn"`) || strings.HasPrefix(line, `{"level":"error"`)) {
			lines = append(lines, line)
		}
	}
	return lines
}

// inIndex reports whether the page's table of log lines leads from a line to a heading. It has
// no rows for the lines of logins.
func inIndex(t *testing.T, message, heading string) bool {
	t.Helper()
	page, err := os.ReadFile("../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	_, index, _ := strings.Cut(string(page), "\n## By a line of the log\n")
	index, _, _ = strings.Cut(index, "\n### ")
	rows := 0
	for line := range strings.Lines(index) {
		words, links, _ := strings.Cut(strings.TrimPrefix(line, "| `"), "` | ")
		if !slices.ContainsFunc(strings.Split(words, "`, `"), func(w string) bool { return strings.HasPrefix(line, "| `") && strings.Contains(message, w) }) {
			continue
		}
		if rows++; strings.Contains(links, "](#"+heading+")") {
			return true
		}
	}
	return rows == 0
}

// wantRemedies fails the test if a warning or an error does not say what to do, and where
// to read more.
func wantRemedies(t *testing.T, log string) {
	t.Helper()
	headings, err := os.ReadFile("../../caddymodule/internal/remedy/remedy.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range loud(log) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		if remedy, _ := fields["remedy"].(string); len(remedy) < 10 {
			t.Errorf("no remedy: %s", line)
		}
		see, _ := fields["see"].(string)
		heading, ok := strings.CutPrefix(see, "docs/troubleshooting.md#")
		if !ok || !strings.Contains(string(headings), strconv.Quote(heading)) {
			t.Errorf("it leads nowhere: %s", line)
		}
		if message, _ := fields["msg"].(string); !inIndex(t, message, heading) {
			t.Errorf("docs/troubleshooting.md has other headings for it: %s", line)
		}
	}
}

// A thousand users log in while WeChat is down. Each login has a line in the log, but none is
// an alarm: the outage has one alarm when it starts and one line when it ends.
func TestWeChatOutageIsTwoLines(t *testing.T) {
	t.Parallel()
	for _, fault := range []wechattest.Fault{
		{Call: wechattest.Code2Session, Kind: wechattest.Reset, Count: -1},
		{Call: wechattest.PhoneNumber, Kind: wechattest.HTML, Count: -1},
	} {
		t.Run(string(fault.Call), func(t *testing.T) {
			t.Parallel()
			r := rig.NewGatewayWith(t, rig.Site("wx_auth {env.WX_APPID} {env.WX_SECRET} {\nlogin_rate 100000/m\nwechat {\napi {$WX_API}\n}\n}\nreverse_proxy {$UPSTREAM}", rig.TrustedLoopback))
			r.MustLogin(t, "13800138000")
			before := len(r.Caddy.Log.String())
			if err := r.WeChat.Inject(fault); err != nil {
				t.Fatal(err)
			}
			const logins = 1000
			var failed atomic.Int64
			rig.AtOnce(20, func(worker int) {
				for i := range logins / 20 {
					codes := r.WeChat.Tap(t, fmt.Sprintf("137%08d", worker*1000+i))
					body := map[string]string{"code": codes.Code, "phoneCode": codes.PhoneCode}
					if r.Do(http.MethodPost, "/auth/wx", body, fmt.Sprintf("X-Forwarded-For: 198.51.100.%d", i)).Status >= 500 {
						failed.Add(1)
					}
				}
			})
			if failed.Load() != logins {
				t.Fatalf("%d of %d logins failed", failed.Load(), logins)
			}
			r.WeChat.ClearFaults()
			call := map[wechattest.Call]string{wechattest.Code2Session: "jscode2session", wechattest.PhoneNumber: "getuserphonenumber"}[fault.Call]
			rig.Await(t, 30*time.Second, "logins work again", func() bool {
				codes := r.WeChat.Tap(t, "13800138000")
				return r.Login(codes.Code, codes.PhoneCode).Status == http.StatusOK
			})
			r.Caddy.Log.Wait(t, 30*time.Second, "WeChat call "+call+": back again", `"level":"info"`)
			log := r.Caddy.Log.String()[before:]
			lines := loud(log)
			if len(lines) > 20 {
				t.Errorf("%d lines at WARN and above:\n%s", len(lines), strings.Join(lines[:20], ""))
			}
			if n := strings.Count(log, "WeChat call "+call+": failing since "); n != 1 {
				t.Errorf("%d lines say that it began", n)
			}
			if n := strings.Count(log, "WeChat call "+call+": back again"); n != 1 {
				t.Errorf("%d lines say that it is over", n)
			}
			if n := strings.Count(log, `"msg":"login refused"`); n < logins {
				t.Errorf("%d lines about %d logins", n, logins)
			}
			if !strings.Contains(log, "the circuit breaker is open") {
				t.Error("no line says that WeChat was not asked")
			}
			wantRemedies(t, log)
		})
	}
}

// The database is stopped while users log in, refresh and log out. The log has two lines for
// the outage, and one line for each refused login.
func TestStoreOutageIsTwoLines(t *testing.T) {
	t.Parallel()
	s := rig.NewServer(t, "postgres")
	r := rig.NewReplicas(t, s.Database, 1)[0]
	pair := r.MustLogin(t, "13800138000")
	before := len(r.Caddy.Log.String())
	s.Stop()
	const rounds = 8
	for range rounds {
		codes := r.WeChat.Tap(t, "13800138000")
		r.Login(codes.Code, codes.PhoneCode).WantProblem(t, http.StatusServiceUnavailable, "store_unavailable", []string{})
		r.Refresh(pair.RefreshToken).WantProblem(t, http.StatusServiceUnavailable, "store_unavailable", nil)
		r.Logout(pair.Token, "", false).WantProblem(t, http.StatusServiceUnavailable, "store_unavailable", nil)
		r.Me(pair.Token).WantProblem(t, http.StatusServiceUnavailable, "store_unavailable", nil)
		r.Get("/auth/wx/sessions", pair.Token).WantProblem(t, http.StatusServiceUnavailable, "store_unavailable", nil)
	}
	s.Start()
	rig.Await(t, time.Minute, "logins work again", func() bool {
		codes := r.WeChat.Tap(t, "13800138000")
		return r.Login(codes.Code, codes.PhoneCode).Status == http.StatusOK
	})
	r.Caddy.Log.Wait(t, time.Minute, `"msg":"the store: back again"`)
	log := r.Caddy.Log.String()[before:]
	if n := strings.Count(log, "the store: failing since "); n != 1 {
		t.Errorf("%d lines say that it began", n)
	}
	if n := strings.Count(log, "the store: back again"); n != 1 {
		t.Errorf("%d lines say that it is over", n)
	}
	if lines := loud(log); len(lines) > 5 {
		t.Errorf("%d lines at WARN and above:\n%s", len(lines), strings.Join(lines, ""))
	}
	if n := strings.Count(log, `"msg":"login refused"`); n < rounds {
		t.Errorf("%d lines about %d logins", n, rounds)
	}
	wantRemedies(t, log)
}

// A user calls the support desk with a request id. The id leads to a log line that says who
// asked, from where, and how long each step took.
func TestLinesAreFoundByRequestID(t *testing.T) {
	t.Parallel()
	r := rig.NewGatewayWith(t, rig.GatewaySiteWith("log", "service_key 0123456789abcdef0123456789abcdef"))
	line := func(msg string, id string) map[string]any {
		t.Helper()
		texts := []string{`"msg":"` + msg + `"`}
		if id != "" {
			texts = append(texts, `"requestId":"`+id+`"`)
		}
		var fields map[string]any
		if err := json.Unmarshal([]byte(r.Caddy.Log.Wait(t, 10*time.Second, texts...)), &fields); err != nil {
			t.Fatal(err)
		}
		if id, _ := fields["requestId"].(string); len(id) < 10 || fields["address"] != "127.0.0.1" {
			t.Errorf("%s: the request %q, the address %v", msg, id, fields["address"])
		}
		return fields
	}
	pair := r.MustLogin(t, "13800138000")
	login := line("login", "")
	steps, _ := login["steps"].(map[string]any)
	for _, step := range []string{"jscode2session", "getuserphonenumber"} {
		if took, _ := steps[step].(float64); took <= 0 {
			t.Errorf("%s took %v", step, steps[step])
		}
	}
	if login["phone"] != "+86138****8000" || login["user"] != pair.UserInfo.ID {
		t.Errorf("the line of a login: %v", login)
	}
	for _, c := range []struct {
		msg    string
		answer rig.Answer
	}{
		{"login refused", r.Login(r.WeChat.Open(t, "13800138000").Code, "nobodys")},
		{"login refused", r.Do(http.MethodPost, "/auth/wx", "{")},
		{"a request without the service key for a service endpoint", r.Get("/auth/wx/service/users/1", "")},
	} {
		line(c.msg, c.answer.Problem(t).RequestID)
	}
	id := r.Get("/orders", "").Problem(t).RequestID
	r.Caddy.Log.Wait(t, 10*time.Second, `"msg":"handled request"`, `"requestId":"`+id+`"`)
	r.Logout(pair.Token, "", false).Want(t, http.StatusNoContent)
	if out := line("logout", ""); fmt.Sprint(out["users"]) != "["+pair.UserInfo.ID+"]" {
		t.Errorf("the line of a logout: %v", out)
	}
	stolen := r.MustLogin(t, "13900139000")
	r.Refresh(r.Refresh(stolen.RefreshToken).Pair(t).RefreshToken).Pair(t)
	line("a refresh token was shown again after two or more had followed it: it may have been stolen; the session was ended", r.Refresh(stolen.RefreshToken).Problem(t).RequestID)
	wantRemedies(t, r.Caddy.Log.String())
	if lines := r.Caddy.Log.Lines(`"request":"`); len(lines) > 0 {
		t.Errorf("another name for the request's id: %s", lines[0])
	}
}
