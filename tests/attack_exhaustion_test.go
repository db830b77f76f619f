package tests

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// TestAttackFloodOfGarbageTokens sends bad tokens from all sides while good ones are
// in use: each gets what it deserves.
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
		func() string { return header + "." + rand.Text() + "." + rand.Text() }, // as costly as can be:
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

// TestAttackTenThousandOfEverything sends more of all that is split, compared or
// removed than anyone needs, on a site that takes heads of that size.
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
		"parameters around a token":      {"/api/x?" + half + "access_token=" + pair.Token + "&" + half, upgradeLines},
		"parameters nearly our own":      {"/api/x?" + many("%%61ccess_toke%d=x", "&") + "&access_token=" + pair.Token, upgradeLines},
		"nothing but ampersands":         {"/api/x?" + strings.Repeat("&", 10*n), []string{auth}},
		"cookies":                        {"/api/x", []string{auth, "Cookie: " + many("c%d=%[1]d", "; ")}},
		"cookies around a token":         {"/api/x", []string{"Cookie: " + many("c%d=%[1]d", "; ") + "; __Host-wx-auth=" + pair.Token + "; " + many("d%d=%[1]d", "; ")}},
		"cookie lines":                   {"/api/x", append(lines("Cookie: c%d=%[1]d"), "Cookie: __Host-wx-auth="+pair.Token)},
		"nothing but semicolons":         {"/api/x", []string{auth, "Cookie: " + strings.Repeat(";", 10*n)}},
		"protocols around a token":       {"/api/x", upgradeWith("Sec-WebSocket-Protocol: " + many("p%d", ",") + ",bearer," + pair.Token + "," + many("q%d", ","))},
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
		"tokens in parameters":  {twoTokens, upgradeLines, many("access_token=%d", "&")},
		"tokens as protocols":   {twoTokens, upgradeWith("Sec-WebSocket-Protocol: " + many("bearer, %d", ", ")), ""},
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
	// By default Caddy takes no head of that size at all.
	small := newFort(t, fortSite(""))
	for _, line := range []string{"Cookie: " + many("c%d=%[1]d", "; "), "X: " + strings.Repeat("x", 1<<20)} {
		c := converse(t, small.Addr, message(small.Addr, "GET", "/public/x", line))
		if len(c.answers) != 1 || c.answers[0].Status != http.StatusRequestHeaderFieldsTooLarge || !c.closed || len(small.tap.take()) > 0 {
			t.Errorf("answers %d, closed %v", c.statuses(), c.closed)
		}
	}
}
