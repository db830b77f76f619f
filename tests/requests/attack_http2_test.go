package requests

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// An attacker sends fields and pseudo-headers of HTTP/2 and HTTP/3 that would become another
// message when they are translated to HTTP/1.
func TestAttackFieldsOfLaterHTTP(t *testing.T) {
	t.Parallel()
	f := newFort3(t, fortSite(""))
	t.Run("HTTP2", func(t *testing.T) {
		f.attackFields(t, f.Addr, "http", func(m message2) rig.Answer { return raw2(f.Addr, nil, m) })
	})
	t.Run("HTTP3", func(t *testing.T) {
		f.attackFields(t, f.addr2(), "https", func(m message2) rig.Answer { return raw3(f.addr2(), m) })
	})
}

func (f *fort) attackFields(t *testing.T, addr, scheme string, send func(message2) rig.Answer) {
	pair := f.login(t, "13800138000")
	identity, auth := f.identity(t, pair), field{"authorization", "Bearer " + pair.Token}
	crlf := "x\r\nX-WX-USER-ID: " + forged + "\r\n\r\nGET /api/hidden HTTP/1.1\r\nHost: x\r\n\r\n"
	without := func(name string, fields []field) []field {
		return slices.DeleteFunc(fields, func(f field) bool { return f.name == name })
	}
	free := func(more ...field) message2 { return message2{fields: get2(addr, "GET", "/free/x", more...)} }
	path := func(target string) message2 { return message2{fields: get2(addr, "GET", target)} }
	method := func(m string) message2 { return message2{fields: get2(addr, m, "/free/x")} }

	rows := 0
	for name, m := range map[string]message2{
		"a line end in a value":         free(field{"x-custom", crlf}),
		"LF in a value":                 free(field{"x-custom", "a\nx-wx-user-id: " + forged}),
		"NUL in a value":                free(field{"x-custom", "a\x00"}),
		"a line end in a name":          free(field{"x\r\nx-wx-user-id: " + forged + "\r\ny", "z"}),
		"a colon in a name":             free(field{"x-wx-user-id: " + forged + "\r\ny", "z"}),
		"a blank in a name":             free(field{"x-wx-user-id ", forged}),
		"a name in capitals":            free(field{"X-WX-USER-ID", forged}),
		"no name":                       free(field{"", forged}),
		"Connection":                    free(field{"connection", "x-wx-user-id"}),
		"Proxy-Connection":              free(field{"proxy-connection", "x-wx-user-id"}),
		"Keep-Alive":                    free(field{"keep-alive", "x"}),
		"Transfer-Encoding":             free(field{"transfer-encoding", "chunked"}),
		"Upgrade":                       free(field{"upgrade", "websocket"}),
		"TE":                            free(field{"te", "gzip"}),
		"pseudo-header behind":          free(field{"x", "y"}, field{":path", "/api/hidden"}),
		"two paths":                     {fields: append(get2(addr, "GET", "/free/x"), field{":path", "/api/hidden"})},
		"two methods":                   {fields: append(get2(addr, "GET", "/free/x"), field{":method", "POST"})},
		"unknown pseudo-header":         {fields: append(get2(addr, "GET", "/free/x"), field{":x-wx-user-id", forged})},
		"status":                        {fields: append(get2(addr, "GET", "/free/x"), field{":status", "200"})},
		"protocol of no CONNECT":        {fields: append(get2(addr, "GET", "/free/x"), field{":protocol", "websocket"})},
		"no path":                       {fields: without(":path", get2(addr, "GET", "/free/x"))},
		"no method":                     {fields: without(":method", get2(addr, "GET", "/free/x"))},
		"no scheme":                     {fields: without(":scheme", get2(addr, "GET", "/free/x"))},
		"an empty path":                 path(""),
		"a path without a slash":        path("free/x"),
		"a path with a line end":        path("/free/x HTTP/1.1\r\nx-wx-user-id: " + forged + "\r\n\r\nGET /api/hidden"),
		"a path with a blank":           path("/free/x /api/hidden"),
		"a path with NUL":               path("/free/x\x00"),
		"a method with a line end":      method("GET /api/hidden HTTP/1.1\r\nx: y"),
		"a method with a blank":         method("GET /api/hidden"),
		"TRACE":                         method("TRACE"),
		"a host with a line end":        {fields: get2(addr+"\r\nx-wx-user-id: "+forged, "GET", "/free/x")},
		"a longer content-length":       {fields: get2(addr, "POST", "/free/x", field{"content-length", "9"}), data: []string{"abc"}},
		"a shorter content-length":      {fields: get2(addr, "POST", "/free/x", field{"content-length", "1"}), data: []string{"abcdefghi"}},
		"two content-lengths":           {fields: get2(addr, "POST", "/free/x", field{"content-length", "3"}, field{"content-length", "0"}), data: []string{"abc"}},
		"a content-length that is none": {fields: get2(addr, "POST", "/free/x", field{"content-length", "+3"}), data: []string{"abc"}},
		"CONNECT":                       {fields: []field{{":method", "CONNECT"}, {":authority", "127.0.0.1:22"}}},
		"CONNECT with a path":           {fields: get2(addr, "CONNECT", "/free/x")},
		"extended CONNECT":              {fields: append(get2(addr, "CONNECT", "/api/x"), field{":protocol", "websocket"})},
	} {
		t.Run(name, func(t *testing.T) {
			rows++
			mark := fmt.Sprintf("/free/row%d", rows) // the upstream reports a broken body late, during another row
			for i, f := range m.fields {
				if f.name == ":scheme" {
					m.fields[i].value = scheme
				}
				m.fields[i].value = strings.ReplaceAll(m.fields[i].value, "/free/x", mark)
			}
			a := send(m)
			all := f.tap.take()
			got := whole(all, mark)
			for _, w := range all {
				w.wantIdentity(t, nil)
				if strings.Contains(w.line, "hidden") || len(w.values("Host")) != 1 || w.values("Host")[0] != addr {
					t.Errorf("at the upstream: %s", short(w))
				}
			}
			if name == "two content-lengths" && scheme == "http" { // over HTTP/2 the first one counts, and it is right
				if a.Status != 200 || len(got) != 1 || got[0].body != "abc" || !slices.Equal(got[0].values("Content-Length"), []string{"3"}) {
					t.Errorf("%d, upstream %s", a.Status, short(got))
				}
				return
			}
			if name == "no scheme" && scheme == "https" { // the HTTP/3 server does not require it
				return
			}
			if a.Status != 0 && a.Status != 400 && a.Status != 401 && a.Status != 405 {
				t.Errorf("status %d", a.Status)
			}
			if name == "a content-length that is none" { // over HTTP/2 it counts as 0, and the stream ends with the first data
				got = slices.DeleteFunc(got, func(w wire) bool { return w.body == "" })
			}
			if name == "a shorter content-length" { // over HTTP/3 the announced part is forwarded before the rest is seen
				got = slices.DeleteFunc(got, func(w wire) bool { return w.body == "a" })
			}
			if len(got) > 0 {
				t.Errorf("at the upstream: %s", short(got))
			}
		})
	}
	// Conversely, well-formed requests pass.
	a := send(message2{fields: get2(addr, "POST", "/api/x", auth, field{"te", "trailers"}, field{"content-length", "3"}), data: []string{"abc"}})
	if got := whole(f.tap.take(), "/api/x"); a.Status != 200 || len(got) != 1 {
		t.Errorf("%d %v, upstream %s", a.Status, a.Err, short(got))
	} else {
		got[0].wantIdentity(t, identity)
	}
	// When there is an authority, the host field does not count.
	a = send(message2{fields: get2(addr, "GET", "/free/x", field{"host", "127.0.0.1:1"})})
	if got := f.tap.take(); len(got) > 0 && !slices.Equal(got[0].values("Host"), []string{addr}) || len(got) > 1 {
		t.Errorf("%d, upstream %s", a.Status, short(got))
	}
	for _, fields := range [][]field{get2(addr, "POST", "/api/x"), get2(addr, "GET", "/public/../api/x"), get2(addr, "GET", "*"), get2(addr, "POST", "/public/x")} {
		if a := send(message2{fields: fields}); a.Status != 401 && a.Status != 400 && a.Err == nil || len(whole(f.tap.take(), "")) > 0 {
			t.Errorf("%q: %d %v", fields, a.Status, a.Err)
		}
	}
}

// Bodies stop halfway. Requests that are refused without their body are refused at
// once, and a login ends in time.
func TestAttackUnendedBodiesOfLaterHTTP(t *testing.T) {
	t.Parallel()
	f := newFort3(t, loggedSite(""))
	auth := "Authorization: Bearer " + f.login(t, "13800138000").Token
	const json = "Content-Type: application/json"
	func() {
		var all sync.WaitGroup
		defer all.Wait()
		for _, r := range []struct {
			raw  string
			want refusal
		}{
			{message(f.Addr, "POST", "/api/x"), tokenMissing},
			{message(f.Addr, "PUT", "/api/x", "Content-Length: 1000000"), tokenMissing},
			{message(f.Addr, "GET", "/api/x", "Content-Length: 10"), tokenMissing},
			{message(f.Addr, "POST", "/api/x", auth+"x", "Content-Length: 1000000"), tokenInvalid},
			{message(f.Addr, "POST", "/public/x", auth, auth), twoTokens},
			{message(f.Addr, "TRACE", "/free/x", "Content-Length: 10"), refusal{405, "method_not_allowed"}},
			{message(f.Addr, "POST", "/auth/wx/nothing", json), refusal{404, "not_found"}},
			{message(f.Addr, "POST", "/auth/wx", json, "Content-Length: 1073741824"), refusal{413, "body_too_large"}},
			{message(f.Addr, "POST", "/auth/wx", json) + strings.Repeat(" ", 5000), refusal{413, "body_too_large"}},
			{message(f.Addr, "POST", "/auth/wx", "Content-Length: 10"), refusal{415, "unsupported_media_type"}},
			{message(f.Addr, "POST", "/auth/wx/verify"), tokenMissing},
			{message(f.Addr, "POST", "/auth/wx", json, "Content-Length: 1000") + `{"code":"`, refusal{400, "invalid_request"}},
			{message(f.Addr, "POST", "/auth/wx/refresh", json) + `{"refreshToken":"`, refusal{400, "invalid_request"}},
		} {
			two, three := later(r.raw, f.Addr, "http"), later(r.raw, f.addr2(), "https")
			two.unended, three.unended = true, true
			all.Go(func() { raw2(f.Addr, nil, two).WantProblem(t, r.want.status, r.want.code, nil) })
			all.Go(func() { raw3(f.addr2(), three).WantProblem(t, r.want.status, r.want.code, nil) })
		}
	}()
	if got := f.tap.take(); len(got) > 0 {
		t.Errorf("at the upstream: %s", short(got))
	}
}
