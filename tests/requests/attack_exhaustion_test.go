package requests

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// An attacker sends bad tokens of every kind, many of them costly to verify, while good
// ones are in use. Every good token must be accepted and every bad one refused.
func TestAttackFloodOfGarbageTokens(t *testing.T) {
	t.Parallel()
	f := newFort(t, loggedSite(""))
	const (
		users, uses     = 4, 100
		attackers, each = 12, 100
	)
	var pairs []rig.Pair
	for i := range users {
		pairs = append(pairs, f.login(t, fmt.Sprint(13800138000+i)))
	}
	header, _, _ := strings.Cut(pairs[0].Token, ".")
	garbage := []func() string{
		func() string { return "x." + rand.Text() + "." + rand.Text() },
		func() string { return header + "." + rand.Text() + "." + rand.Text() }, // the most costly kind
		func() string { return header + "." + rand.Text() + strings.Repeat("A", 7<<10) + "." + rand.Text() },
		func() string {
			i := strings.LastIndexByte(pairs[0].Token, '.')
			return pairs[0].Token[:i-4] + rand.Text()[:4] + pairs[0].Token[i:]
		},
	}
	var all sync.WaitGroup
	for a := range attackers {
		all.Go(func() {
			client := f.Client()
			for i := range each {
				if got := client.Get("/api/x", garbage[(a+i)%len(garbage)]()); got.Status != http.StatusUnauthorized {
					t.Errorf("garbage: %d %v %s", got.Status, got.Err, got.Body)
					return
				}
			}
		})
	}
	for _, p := range pairs {
		all.Go(func() {
			client := f.Client()
			for range uses {
				if got := client.Get("/api/x", p.Token); got.Status != http.StatusOK {
					t.Errorf("a good token: %d %v %s", got.Status, got.Err, got.Body)
					return
				}
			}
		})
	}
	all.Wait()
	seen := map[string]int{}
	for _, w := range f.tap.take() {
		seen[strings.Join(w.values("X-Wx-User-Id"), "|")]++
	}
	for _, p := range pairs {
		if n := seen[p.UserInfo.ID]; n != uses {
			t.Errorf("%d of %d requests of a user reached the upstream", n, uses)
		}
		delete(seen, p.UserInfo.ID)
	}
	if len(seen) > 0 {
		t.Errorf("others reached the upstream: %v", seen)
	}
}

// Everything that is split, compared or removed is sent ten thousand times, at a site
// that accepts headers of that size.
func TestAttackTenThousandOfEverything(t *testing.T) {
	t.Parallel()
	f := newFort(t, fortSite("servers {\nmax_header_size 8MB\n}", allSources))
	pair := f.login(t, "13800138000")
	auth, identity := "Authorization: Bearer "+pair.Token, f.identity(t, pair)
	const n = 10000
	many := func(format, sep string) string {
		parts := make([]string, n)
		for i := range parts {
			parts[i] = fmt.Sprintf(format, i)
		}
		return strings.Join(parts, sep)
	}
	lines := func(format string) []string { return strings.Split(many(format, "\n"), "\n") }
	half := strings.Repeat("a=b&", n/2)

	for name, c := range map[string]struct {
		target string
		lines  []string
	}{
		"parameters":                     {"/api/x?" + many("p%d=%[1]d", "&"), []string{auth}},
		"parameters around a token":      {"/api/x?" + half + "access_token=" + pair.Token + "&" + half, rig.UpgradeLines()},
		"parameters nearly our own":      {"/api/x?" + many("%%61ccess_toke%d=x", "&") + "&access_token=" + pair.Token, rig.UpgradeLines()},
		"nothing but ampersands":         {"/api/x?" + strings.Repeat("&", 10*n), []string{auth}},
		"cookies":                        {"/api/x", []string{auth, "Cookie: " + many("c%d=%[1]d", "; ")}},
		"cookies around a token":         {"/api/x", []string{"Cookie: " + many("c%d=%[1]d", "; ") + "; __Host-wx-auth=" + pair.Token + "; " + many("d%d=%[1]d", "; ")}},
		"cookie lines":                   {"/api/x", append(lines("Cookie: c%d=%[1]d"), "Cookie: __Host-wx-auth="+pair.Token)},
		"nothing but semicolons":         {"/api/x", []string{auth, "Cookie: " + strings.Repeat(";", 10*n)}},
		"protocols around a token":       {"/api/x", rig.UpgradeLines("Sec-WebSocket-Protocol: " + many("p%d", ",") + ",bearer," + pair.Token + "," + many("q%d", ","))},
		"options of the connection":      {"/api/x", []string{auth, "Connection: " + many("X-WX-%d", ",")}},
		"lines of Connection":            {"/api/x", append(lines("Connection: x-wx-user-id, x-%d"), auth)},
		"identity headers":               {"/api/x", append(lines("X-WX-%d: "+forged), auth)},
		"one identity header":            {"/api/x", append(lines("X-WX-USER-ID: "+forged+"%d"), auth)},
		"headers":                        {"/api/x", append(lines("X-H-%d: x"), auth)},
		"announced trailers":             {"/api/x", []string{auth, "Trailer: " + many("X-WX-%d", ", "), "Transfer-Encoding: chunked"}},
		"segments":                       {"/api/" + many("%d", "/"), []string{auth}},
		"segments without a token":       {"/public/" + many("%d", "/"), nil},
		"escapes":                        {"/public/" + many("%%E4%%BD%%A0%d", "/"), nil},
		"parameters of a path for all":   {"/public/x?" + many("p%d=%[1]d", "&"), nil},
		"cookies on a path for all":      {"/public/x", []string{"Cookie: " + many("c%d=%[1]d", "; ")}},
		"identity on a path for all":     {"/public/x", lines("X-WX-%d: " + forged)},
		"spaces of a credential":         {"/api/x", []string{"Authorization: Bearer" + strings.Repeat(" ", n) + pair.Token}},
		"length of a header that passes": {"/public/x", []string{"X-Custom: " + strings.Repeat("x", 1<<20)}},
	} {
		t.Run(name, func(t *testing.T) {
			raw := message(f.Addr, "GET", c.target, c.lines...)
			if name == "announced trailers" {
				raw += "0\r\n\r\n"
			}
			want := identity
			if strings.HasPrefix(c.target, "/public/") {
				want = nil
			}
			w := f.passes(t, raw)
			w.wantIdentity(t, want)
			if strings.Contains(fmt.Sprint(w), pair.Token) {
				t.Error("the token reached the upstream")
			}
		})
	}
	for name, c := range map[string]struct {
		want  refusal
		lines []string
		query string
	}{
		"tokens in cookies":     {twoTokens, []string{"Cookie: " + many("__Host-wx-auth=%d", "; ")}, ""},
		"tokens in parameters":  {twoTokens, rig.UpgradeLines(), many("access_token=%d", "&")},
		"tokens as protocols":   {twoTokens, rig.UpgradeLines("Sec-WebSocket-Protocol: " + many("bearer, %d", ", ")), ""},
		"Authorization headers": {twoTokens, lines("Authorization: Bearer %d"), ""},
		"commas":                {twoTokens, []string{"Authorization: Bearer " + pair.Token + strings.Repeat(",", n)}, ""},
		"dots":                  {tokenInvalid, []string{"Authorization: Bearer " + strings.Repeat(".", 10*n)}, ""},
		"quotes":                {tokenInvalid, []string{"Authorization: Digest " + strings.Repeat(`"\",`, n)}, ""},
		"schemes":               {tokenInvalid, []string{"Authorization: Digest " + many(`a%d="b"`, ", ")}, ""},
		"no token":              {tokenMissing, []string{"Cookie: " + many("c%d=%[1]d", "; ")}, many("p%d", "&")},
	} {
		t.Run(name, func(t *testing.T) {
			f.refuses(t, c.want, message(f.Addr, "GET", "/api/x?"+c.query, c.lines...))
			if c.want.code == "invalid_request" {
				f.refuses(t, c.want, message(f.Addr, "GET", "/api/x?"+c.query, append(slices.Clone(c.lines), auth)...))
			}
		})
	}
	// By default Caddy does not accept headers of that size.
	small := newFort(t, fortSite(""))
	for _, line := range []string{"Cookie: " + many("c%d=%[1]d", "; "), "X: " + strings.Repeat("x", 1<<20)} {
		c := converse(t, small.Addr, message(small.Addr, "GET", "/public/x", line))
		if len(c.answers) != 1 || c.answers[0].Status != http.StatusRequestHeaderFieldsTooLarge || !c.closed || len(small.tap.take()) > 0 {
			t.Errorf("answers %d, closed %v", c.statuses(), c.closed)
		}
	}
}

// Logins are refused from very many addresses. The state kept about them is bounded,
// and a client that has used up its rate stays refused meanwhile.
func TestAttackManyAddresses(t *testing.T) {
	t.Parallel()
	f := newFort(t, fortSite("servers {\ntrusted_proxies static 127.0.0.1/32\ntrusted_proxies_strict\n}", "login_rate 3/h"))
	from := func(client *rig.Client, address, code string) rig.Answer {
		return client.Do(http.MethodPost, "/auth/wx", map[string]string{"code": code}, "X-Forwarded-For: "+address)
	}
	const worker, limited = 8, "198.51.100.7"
	flood := func(first, n int) {
		var all sync.WaitGroup
		for w := range worker {
			all.Go(func() {
				client := f.Client()
				for i := first + w; i < first+n; i += worker {
					if a := from(client, fmt.Sprintf("9.%d.%d.%d", i>>16, i>>8&255, i&255), fmt.Sprint("0nonsense", i)); a.Status != http.StatusBadRequest {
						t.Errorf("address %d: %d %v %s", i, a.Status, a.Err, a.Body)
						return
					}
				}
			})
		}
		all.Wait()
	}
	for range 3 {
		from(f.Client(), limited, "0nonsense").WantProblem(t, 400, "login_code_invalid", nil)
	}
	flood(0, 1000) // the memory that any number of logins needs
	before := rig.Resident(t, f.PID())
	flood(1000, rig.Rounds(4000, 99_000))
	grown := rig.Resident(t, f.PID()) - before
	t.Logf("grown by %d KiB", grown>>10)
	if grown > 48<<20 {
		t.Errorf("grown by %d MiB", grown>>20)
	}
	if !rig.Long { // above the bound some clients are forgotten, which shows that the bound exists
		from(f.Client(), limited, "0nonsense").WantProblem(t, 429, "rate_limited", nil)
	}
	f.login(t, "13800138000")
}

// Input reaches code that panics. Each time the answer is a 500 without details that is
// counted, nothing reaches the upstream, and other requests go on.
func TestAttackPanics(t *testing.T) {
	t.Parallel()
	tap, wx := newWiretap(t), rig.NewWeChat(t)
	f := &fort{front{Caddy: rig.NewCaddyOf(t, rig.BuildWith(t, "panics", rig.Panics), append(wx.Environ(tap.addr), "ADDR2="+rig.FreeAddress(t))...), wx: wx}, tap}
	f.Start(withHTTP3(rig.Site("wx_auth {env.WX_APPID} {env.WX_SECRET} {\npublic /public/*\nwechat {\napi {$WX_API}\n}\n}\nreverse_proxy {$UPSTREAM}", "metrics")))
	awaitHTTP3(t, f.addr2())
	auth := "Authorization: Bearer " + f.login(t, "13800138000").Token
	json := []string{"Content-Type: application/json", "Content-Length: 17"}
	counted := 0
	everyHTTP(t, f, func(t *testing.T, f *fort) {
		for _, raw := range []string{
			message(f.Addr, "GET", "/api/x", auth, "X-Panic: yes"),
			message(f.Addr, "GET", "/x", "X-Panic: yes"),
			message(f.Addr, "POST", "/api/x", auth, "X-Panic: yes", "Content-Length: 3") + "abc",
			message(f.Addr, "GET", "/auth/wx/me", auth, "X-Panic: yes"),
			message(f.Addr, "POST", "/auth/wx", append(json, "X-Panic: yes")...) + `{"code":"0panic"}`,
			message(f.Addr, "POST", "/auth/wx", json...) + `{"code":"0panic"}`,
		} {
			a := f.later.send(f.Addr, raw)
			counted++
			a.WantProblem(t, http.StatusInternalServerError, "internal_error", nil)
			if text := fmt.Sprint(a); strings.Contains(text, rig.PanicWords) || strings.Contains(text, ".go:") || strings.Contains(text, "goroutine") {
				t.Errorf("the answer has details: %s", text)
			}
			if got := f.tap.take(); len(got) > 0 {
				t.Errorf("reached the upstream: %s", short(got))
			}
		}
		f.passes(t, message(f.Addr, "GET", "/api/x", auth))
		f.passes(t, message(f.Addr, "GET", "/public/x", "X-Panic: yes")) // the matcher is not called
	})
	if metrics, err := f.Admin("/metrics"); err != nil || !strings.Contains(metrics, fmt.Sprintf("\ncaddy_wx_auth_panics_total %d\n", counted)) {
		t.Errorf("%v: %d panics are counted as %q", err, counted, regexp.MustCompile("(?m)^caddy_wx_auth_panics_total.*").FindString(metrics))
	}
	if log := f.Log.String(); strings.Contains(log, rig.PanicWords) || !strings.Contains(log, "panic at the gate") || !strings.Contains(log, "panic in an endpoint") {
		t.Error("the log says the panic's words, or nothing of it")
	}
}
