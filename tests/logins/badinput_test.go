package logins

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

const jsonType = "application/json"

// startGateway runs that site. A request that does not arrive through 127.0.0.1:1 was not let
// in.
func startGateway(t testing.TB, w *rig.WeChat, options ...string) *rig.Caddy {
	t.Helper()
	return rig.StartCaddy(t, rig.HastySite(options...), w.Environ("127.0.0.1:1")...)
}

// wantRefusal checks what all our errors have in common, and the status and code. If
// renew is nil, the member must be absent.
func wantRefusal(t *testing.T, a rig.Answer, status int, code string, renew []string) rig.Problem {
	t.Helper()
	if a.Err != nil {
		t.Fatal(a.Err)
	}
	a.WantProblem(t, status, code, renew)
	p := a.Problem(t)
	if renew == nil && strings.Contains(a.Body, `"renew"`) {
		t.Errorf("an error that is nobody's code's fault has renew: %s", a.Body)
	}
	if got := a.Header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("content type %q", got)
	}
	if got := a.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("cache-control %q", got)
	}
	if p.RequestID == "" || p.Title != http.StatusText(status) || p.Detail == "" {
		t.Errorf("request id, title or detail is wrong: %s", a.Body)
	}
	if retry := a.Header.Get("Retry-After"); (retry != "") != (status == 429 || status == 503) {
		t.Errorf("a %d with Retry-After %q", status, retry)
	}
	return p
}

func gzipped(t testing.TB, s string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte(s)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// badInput is a request that must be refused before WeChat or the store is asked.
type badInput struct {
	name    string
	method  string // "" means POST
	body    any
	headers []string
	status  int
	code    string
}

// badBodies are bodies that no endpoint accepts; member must be a string.
func badBodies(t testing.TB, member string) []badInput {
	good := fmt.Sprintf(`{%q:"0a1b2c"}`, member)
	bad := func(name, body string) badInput {
		return badInput{name: name, body: body, status: 400, code: "invalid_request"}
	}
	unsupported := func(name, body string, headers ...string) badInput {
		return badInput{name: name, body: body, headers: headers, status: 415, code: "unsupported_media_type"}
	}
	padded := func(size int) string {
		return fmt.Sprintf(`{%q:"0a1b2c","pad":"%s"}`, member, strings.Repeat("p", size))
	}
	return []badInput{
		bad("empty body", ""),
		bad("blank body", " \r\n\t"),
		bad("not JSON", "code=abc&phoneCode=def"),
		bad("half of a JSON", `{"`+member+`":"0a1b`),
		bad("comment in the JSON", `{"`+member+`":"0a1b2c"}// hello`),
		bad("single quotes", `{'`+member+`':'0a1b2c'}`),
		bad("trailing comma", `{"`+member+`":"0a1b2c",}`),
		bad("null", "null"),
		bad("string", `"0a1b2c"`),
		bad("number", "17"),
		bad("array", "["+good+"]"),
		bad("empty object", "{}"),
		bad("member null", `{"`+member+`":null}`),
		bad("member number", `{"`+member+`":17}`),
		bad("member bool", `{"`+member+`":true}`),
		bad("member array", `{"`+member+`":["0a1b2c"]}`),
		bad("member object", `{"`+member+`":{"`+member+`":"0a1b2c"}}`),
		bad("member empty", `{"`+member+`":""}`),
		bad("member in another case", `{"`+strings.ToUpper(member)+`":"0a1b2c"}`),
		bad("duplicate member", `{"`+member+`":"0a1b2c","`+member+`":"0a1b2c"}`),
		bad("duplicate member, escaped", fmt.Sprintf(`{%q:"0a1b2c","\u%04x%s":"other"}`, member, member[0], member[1:])),
		bad("duplicate of a member nobody asked for", `{"`+member+`":"0a1b2c","x":1,"x":2}`),
		bad("second value", good+good),
		bad("trailing word", good+" true"),
		bad("trailing NUL", good+"\x00"),
		bad("byte-order mark", "\ufeff"+good),
		bad("UTF-16", "{\x00\"\x00}\x00"),
		bad("invalid UTF-8", `{"`+member+"\":\"0a\xff\xfe1b\"}"),
		bad("overlong UTF-8", `{"`+member+"\":\"0a\xc0\xaf1b\"}"),
		bad("line end in a string", "{\""+member+"\":\"0a\n1b\"}"),
		bad("deeply nested arrays", strings.Repeat("[", 2000)+strings.Repeat("]", 2000)),
		bad("deeply nested arrays without end", strings.Repeat("[", 4000)),
		bad("deeply nested objects in the member", `{"`+member+`":`+strings.Repeat(`{"a":`, 600)+"1"+strings.Repeat("}", 600)+"}"),
		{name: "5 KiB", body: padded(5 << 10), status: 413, code: "body_too_large"},
		{name: "one byte over 4 KiB", body: good + strings.Repeat(" ", 4097-len(good)), status: 413, code: "body_too_large"},
		unsupported("no content type", good, "Content-Type:"),
		unsupported("no content type and no body", "", "Content-Type:"),
		unsupported("text", good, "Content-Type: text/plain"),
		unsupported("form", member+"=0a1b2c", "Content-Type: application/x-www-form-urlencoded"),
		unsupported("other JSON", good, "Content-Type: application/problem+json"),
		unsupported("content type that is none", good, "Content-Type: application/json; charset"),
		unsupported("charset GBK", good, "Content-Type: application/json; charset=gbk"),
		unsupported("charset UTF-16", good, "Content-Type: application/json; charset=utf-16"),
		unsupported("gzip", gzipped(t, good), "Content-Encoding: gzip"),
		unsupported("gzip in name only", good, "Content-Encoding: gzip"),
		{name: "GET", method: http.MethodGet, status: 405, code: "method_not_allowed"},
		{name: "GET with a body", method: http.MethodGet, body: good, status: 405, code: "method_not_allowed"},
		{name: "PUT", method: http.MethodPut, body: good, status: 405, code: "method_not_allowed"},
		{name: "PATCH", method: http.MethodPatch, body: good, status: 405, code: "method_not_allowed"},
		{name: "DELETE", method: http.MethodDelete, status: 405, code: "method_not_allowed"},
		{name: "OPTIONS", method: http.MethodOptions, status: 405, code: "method_not_allowed"},
		{name: "post", method: "post", body: good, status: 405, code: "method_not_allowed"},
	}
}

// send sends it to a path.
func (b badInput) send(c *rig.Client, path string) rig.Answer {
	method := b.method
	if method == "" {
		method = http.MethodPost
	}
	return c.Do(method, path, b.body, b.headers...)
}

// Malformed logins are refused before WeChat is asked, so they cost no quota and no
// code.
func TestBadLoginsAreRefusedWithoutWeChat(t *testing.T) {
	t.Parallel()
	w, up := rig.NewWeChat(t), rig.NewUpstream(t)
	c := rig.StartCaddy(t, rig.HastySite(), w.Environ(up.Addr)...)
	client := c.Client()
	cases := append(badBodies(t, "code"),
		badInput{name: "phoneCode alone", body: `{"phoneCode":"0a1b2c"}`, status: 400, code: "invalid_request"},
		badInput{name: "phoneCode empty", body: `{"code":"0a1b2c","phoneCode":""}`, status: 400, code: "invalid_request"},
		badInput{name: "phoneCode null", body: `{"code":"0a1b2c","phoneCode":null}`, status: 400, code: "invalid_request"},
		badInput{name: "phoneCode number", body: `{"code":"0a1b2c","phoneCode":1}`, status: 400, code: "invalid_request"},
		badInput{name: "appid null", body: `{"code":"0a1b2c","appid":null}`, status: 400, code: "invalid_request"},
		badInput{name: "appid number", body: `{"code":"0a1b2c","appid":5}`, status: 400, code: "invalid_request"},
		badInput{name: "appid unknown", body: `{"code":"0a1b2c","appid":"wxfedcba9876543210"}`, status: 400, code: "invalid_request"},
		badInput{name: "appid in another case", body: `{"code":"0a1b2c","appid":"` + strings.ToUpper(rig.AppID) + `"}`, status: 400, code: "invalid_request"},
	)
	for _, bad := range cases {
		for _, path := range []string{"/auth/wx", "/auth/wx/"} {
			t.Run(bad.name+" "+path, func(t *testing.T) {
				a := bad.send(client, path)
				var renew []string
				if bad.status == 400 {
					renew = []string{}
				}
				wantRefusal(t, a, bad.status, bad.code, renew)
				if allow := a.Header.Get("Allow"); (allow == "POST") != (bad.status == 405) {
					t.Errorf("Allow %q", allow)
				}
				if strings.Contains(a.Body, "0a1b2c") {
					t.Errorf("the answer shows a code: %s", a.Body)
				}
			})
		}
	}
	head := client.Do(http.MethodHead, "/auth/wx", nil)
	head.Want(t, http.StatusMethodNotAllowed)
	if head.Body != "" || head.Header.Get("Allow") != "POST" || head.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("HEAD: %q, %v", head.Body, head.Header)
	}
	client.Do(http.MethodTrace, "/auth/wx", nil).WantProblem(t, 405, "method_not_allowed", nil)

	for name, raw := range map[string]struct {
		head, body string
		status     int
		code       string
	}{
		"5 KiB in chunks": {"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n",
			"1400\r\n" + `{"code":"` + strings.Repeat("a", 5120-11) + `"}` + "\r\n0\r\n\r\n", 413, "body_too_large"},
		"empty in chunks":   {"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n", 400, "invalid_request"},
		"two content types": {"Content-Type: application/json\r\nContent-Type: text/plain\r\nContent-Length: 12\r\n", `{"code":"a"}`, 415, "unsupported_media_type"},
		"announced 1 GiB":   {"Content-Type: application/json\r\nContent-Length: 1073741824\r\n", `{"code":"a"}`, 413, "body_too_large"},
		"chunks that are none": {"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n", "zz\r\n" + `{"code":"a"}` + "\r\n0\r\n\r\n",
			400, "invalid_request"},
	} {
		t.Run(name, func(t *testing.T) {
			a := rig.Raw(c.Addr, "POST /auth/wx HTTP/1.1\r\nHost: "+c.Addr+"\r\n"+raw.head+"\r\n"+raw.body)
			var renew []string
			if raw.status == 400 {
				renew = []string{}
			}
			wantRefusal(t, a, raw.status, raw.code, renew)
		})
	}

	if n := w.Asked(); n != 0 {
		t.Errorf("WeChat was asked %d times: %v", n, w.Counts())
	}
	if n := up.Hits(); n != 0 {
		t.Errorf("%d requests reached the upstream", n)
	}

	// Conversely, unusual but correct requests pass, so it was the input that was
	// refused above.
	for name, contentType := range map[string]string{
		"plain": jsonType, "charset": "application/json; charset=utf-8", "charset in capitals": `Application/JSON;charset="UTF-8"`,
		"charset by its other name": "application/json; charset=utf8", "the same in capitals": "application/json;charset=UTF8",
	} {
		codes := w.Tap(t, "13800138000")
		a := client.Do(http.MethodPost, "/auth/wx", fmt.Sprintf(` {"x":[{"code":null}],"Code":7,"code":%q,"phoneCode":%q,"appid":%q} `+"\n",
			codes.Code, codes.PhoneCode, rig.AppID), "Content-Type: "+contentType)
		if a.Status != 200 {
			t.Errorf("%s: %d %s", name, a.Status, a.Body)
		}
		for _, coding := range []string{"identity", "Identity", "identity, identity"} {
			again := w.Tap(t, "13800138000")
			if a := client.Do(http.MethodPost, "/auth/wx", fmt.Sprintf(`{"code":%q,"phoneCode":%q}`, again.Code, again.PhoneCode), "Content-Encoding: "+coding); a.Status != 200 {
				t.Errorf("%s: %d %s", coding, a.Status, a.Body)
			}
		}
		for _, coding := range []string{"gzip", "br", "identity, gzip"} {
			a := client.Do(http.MethodPost, "/auth/wx", `{"code":"0a"}`, "Content-Encoding: "+coding)
			wantRefusal(t, a, 415, "unsupported_media_type", nil)
			if !strings.Contains(a.Body, "Content-Encoding") || a.Header.Get("Accept-Encoding") != "identity" {
				t.Errorf("%s: %s", coding, a.Body)
			}
		}
		exact := fmt.Sprintf(`{"code":%q,"phoneCode":%q}`, codes.Code, codes.PhoneCode)
		if a := client.Do(http.MethodPost, "/auth/wx", exact+strings.Repeat(" ", 4096-len(exact))); a.Status != 200 {
			t.Errorf("exactly 4 KiB: %d %s", a.Status, a.Body)
		}
	}
}

// A site has several mini programs. A login that names none of them is refused.
func TestSeveralAppsNeedAnAppID(t *testing.T) {
	t.Parallel()
	w := rig.NewWeChat(t)
	c := startGateway(t, w, "app wx00000000000000ff 00000000000000000000000000000000")
	codes := w.Tap(t, "13800138000")
	body := map[string]string{"code": codes.Code, "phoneCode": codes.PhoneCode}
	for _, headers := range [][]string{
		nil,
		{"Referer: https://servicewechat.com/wx9999999999999999/3/page-frame.html"},
		{"Referer: https://example.com/" + rig.AppID + "/3/page-frame.html"},
	} {
		wantRefusal(t, c.Client().Do(http.MethodPost, "/auth/wx", body, headers...), 400, "invalid_request", []string{})
	}
	if n := w.Asked(); n != 0 {
		t.Errorf("WeChat was asked %d times", n)
	}
	c.Client().Do(http.MethodPost, "/auth/wx", body, "Referer: https://servicewechat.com/"+rig.AppID+"/3/page-frame.html").Pair(t)
}

// Malformed refreshes and logouts are refused, and must not end a session.
func TestBadRefreshesAndLogoutsEndNothing(t *testing.T) {
	t.Parallel()
	w := rig.NewWeChat(t)
	c := startGateway(t, w)
	client := c.Client()
	codes := w.Tap(t, "13800138000")
	pair := client.Login(codes.Code, codes.PhoneCode).Pair(t)
	w.ResetCounts()

	for _, bad := range badBodies(t, "refreshToken") {
		t.Run("refresh "+bad.name, func(t *testing.T) {
			wantRefusal(t, bad.send(client, "/auth/wx/refresh"), bad.status, bad.code, nil)
		})
		// The token is good, so it is the body that is refused.
		if s, ok := bad.body.(string); ok && (s == "" || s == "{}" || strings.Contains(bad.name, "another case")) {
			continue // the token is enough, so no refresh token is needed
		}
		t.Run("logout "+bad.name, func(t *testing.T) {
			bad.headers = append([]string{"Authorization: Bearer " + pair.Token}, bad.headers...)
			wantRefusal(t, bad.send(client, "/auth/wx/logout"), bad.status, bad.code, nil)
		})
	}
	for _, body := range []string{`{"all":"true"}`, `{"all":1}`, `{"all":null}`, `{"all":true,"all":false}`} {
		wantRefusal(t, client.Do(http.MethodPost, "/auth/wx/logout", body, "Authorization: Bearer "+pair.Token), 400, "invalid_request", nil)
	}

	// It is well-formed, but not ours.
	forged := pair.RefreshToken[:len(pair.RefreshToken)-2] + "AA"
	if forged == pair.RefreshToken {
		forged = pair.RefreshToken[:len(pair.RefreshToken)-2] + "BB"
	}
	for _, shown := range []string{"x", forged, pair.RefreshToken + "A", pair.RefreshToken + "\n", strings.Repeat("A", 3000), pair.Token, "令牌"} {
		wantRefusal(t, client.Refresh(shown), 401, "refresh_invalid", nil)
		wantRefusal(t, client.Logout("", shown, false), 401, "refresh_invalid", nil)
	}
	wantRefusal(t, client.Logout("", "", false), 401, "token_missing", nil)
	wantRefusal(t, client.Do(http.MethodPost, "/auth/wx/logout", `{}`), 401, "token_missing", nil)
	wantRefusal(t, client.Logout("not.a.token", "", false), 401, "token_invalid", nil)

	if n := w.Asked(); n != 0 {
		t.Errorf("WeChat was asked %d times: %v", n, w.Counts())
	}
	client.Me(pair.Token).Want(t, 200) // none of this has ended the session
	next := client.Refresh(pair.RefreshToken).Pair(t)
	if next.RefreshToken == pair.RefreshToken {
		t.Error("the refresh token did not advance")
	}
	client.Logout(next.Token, "", false).Want(t, 204)
	wantRefusal(t, client.Me(next.Token), 401, "token_revoked", nil)
}
