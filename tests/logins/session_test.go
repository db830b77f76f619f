package logins

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// A refresh token works once, and again within its grace. A stolen copy ends the session.
func TestRefresh(t *testing.T) {
	t.Parallel()
	r := rig.NewGateway(t)
	first := r.MustLogin(t, "13800138000")

	a := r.Refresh(first.RefreshToken)
	second := a.Pair(t)
	rig.WantMembers(t, a.Body, "token", "tokenType", "expiresIn", "refreshToken", "refreshExpiresIn")
	if second.TokenType != "Bearer" || !about(second.ExpiresIn, 3600) || !about(second.RefreshExpiresIn, 30*24*3600) {
		t.Errorf("token type or times: %s", a.Body)
	}
	if got := a.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("cache-control %q", got)
	}
	if second.RefreshToken == first.RefreshToken || second.Token == first.Token {
		t.Error("the pair is not a new one")
	}
	if rig.SessionOf(t, second.Token) != rig.SessionOf(t, first.Token) {
		t.Error("the session is another one")
	}
	seen := r.Get("/", second.Token).Seen(t)
	seen.WantHeader(t, "X-WX-USER-ID", first.UserInfo.ID)
	seen.WantHeader(t, "X-WX-PHONE", "+8613800138000")
	r.WantAlive(t, first) // the old token stays valid until it expires

	// The answer was lost, so the client sends the same refresh token again.
	again := r.Refresh(first.RefreshToken).Pair(t)
	if again.RefreshToken != second.RefreshToken {
		t.Error("within the grace another refresh token came")
	}
	if again.Token == second.Token {
		t.Error("the token was not minted anew")
	}
	r.WantAlive(t, again)
	third := r.Refresh(again.RefreshToken).Pair(t)
	if third.RefreshToken == second.RefreshToken {
		t.Error("the refresh token did not advance")
	}

	// Two newer refresh tokens exist, so this one must be a copy.
	wantRefusal(t, r.Refresh(first.RefreshToken), http.StatusUnauthorized, "reuse_detected", nil)
	r.WantEnded(t, third)
	r.WantEnded(t, first)
	r.Caddy.Log.Wait(t, 20*time.Second, "stolen", rig.SessionOf(t, first.Token))

	for _, bad := range []string{"x", third.RefreshToken + "A", strings.ToUpper(third.RefreshToken), third.Token, first.RefreshToken[:80]} {
		wantRefusal(t, r.Refresh(bad), http.StatusUnauthorized, "refresh_invalid", nil)
	}
}

// A client refreshes more often than the rate allows. Nothing may advance, or its next
// refresh token would be lost.
func TestRefreshesBeyondTheRateAdvanceNothing(t *testing.T) {
	t.Parallel()
	r := rig.NewGateway(t)
	p := r.MustLogin(t, "13800138000")
	other := r.MustLogin(t, "13900139000")
	var a rig.Answer
	start, advanced := time.Now(), 0
	for ; advanced < 40; advanced++ {
		if a = r.Refresh(p.RefreshToken); a.Status != http.StatusOK {
			break
		}
		next := a.Pair(t)
		for range 3 { // repeats after a lost answer are not counted
			if again := r.Refresh(p.RefreshToken).Pair(t); again.RefreshToken != next.RefreshToken {
				t.Fatal("a repeat advanced")
			}
		}
		p = next
	}
	a.WantProblem(t, http.StatusTooManyRequests, "rate_limited", nil)
	if most := 11 + int(time.Since(start)/(6*time.Second)); advanced < 10 || advanced > most {
		t.Errorf("%d refreshes in %s", advanced, time.Since(start))
	}
	if wait, err := strconv.Atoi(a.Header.Get("Retry-After")); err != nil || wait < 1 || wait > 6 {
		t.Errorf("Retry-After %q", a.Header.Get("Retry-After"))
	}
	if got := a.Header.Get("RateLimit-Policy"); got != `"refresh";q=10;w=60` || !strings.HasPrefix(a.Header.Get("RateLimit"), `"refresh";r=0;t=`) {
		t.Errorf("RateLimit %q, RateLimit-Policy %q", a.Header.Get("RateLimit"), got)
	}
	r.WantAlive(t, p)
	r.Refresh(other.RefreshToken).Pair(t) // another session is not limited
	rig.Await(t, 15*time.Second, "the next is taken, and the token has not advanced", func() bool {
		return r.Refresh(p.RefreshToken).Status == http.StatusOK
	})
}

// A refresh token is presented again after its grace: it may have been stolen, so the
// session ends.
func TestLateRefreshTokenEndsTheSession(t *testing.T) {
	t.Parallel()
	const grace = 3 * time.Second
	r := rig.NewGateway(t, "session {\ngrace 3s\n}")
	first := r.MustLogin(t, "13800138000")
	start := time.Now()
	second := r.Refresh(first.RefreshToken).Pair(t)
	if again := r.Refresh(first.RefreshToken).Pair(t); again.RefreshToken != second.RefreshToken {
		t.Error("within the grace another refresh token came")
	}
	var last rig.Answer
	rig.Await(t, 10*time.Second, "the grace ends", func() bool {
		last = r.Refresh(first.RefreshToken)
		return last.Status != http.StatusOK
	})
	if took := time.Since(start); took < grace {
		t.Errorf("refused after %s", took)
	}
	wantRefusal(t, last, http.StatusUnauthorized, "session_ended", nil)
	r.WantEnded(t, second)
	if lines := r.Caddy.Log.Lines("stolen"); len(lines) > 0 {
		t.Errorf("an alarm: %s", lines)
	}
}

// A user logs out on one device or on all, by token or refresh token.
func TestLogout(t *testing.T) {
	t.Parallel()
	r := rig.NewGateway(t)
	const number = "13800138000"
	stranger := r.MustLogin(t, "13900139000")
	pairs := func(n int) []rig.Pair {
		all := make([]rig.Pair, n)
		for i := range all {
			all[i] = r.MustLogin(t, number)
		}
		return all
	}
	gone := func(t testing.TB, a rig.Answer) {
		t.Helper()
		a.Want(t, http.StatusNoContent)
		if a.Body != "" || a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("body %q, cache-control %q", a.Body, a.Header.Get("Cache-Control"))
		}
	}
	ways := []struct {
		name string
		out  func(rig.Pair, bool) rig.Answer
	}{
		{"token", func(p rig.Pair, all bool) rig.Answer { return r.Logout(p.Token, "", all) }},
		{"refresh token", func(p rig.Pair, all bool) rig.Answer { return r.Logout("", p.RefreshToken, all) }},
		{"both", func(p rig.Pair, all bool) rig.Answer { return r.Logout(p.Token, p.RefreshToken, all) }},
	}
	for _, way := range ways {
		t.Run("this one by "+way.name, func(t *testing.T) {
			p := pairs(2)
			gone(t, way.out(p[0], false))
			r.WantEnded(t, p[0])
			r.WantAlive(t, p[1])
			gone(t, way.out(p[0], false)) // it has already ended
			r.WantAlive(t, p[1])
			r.WantAlive(t, stranger)
		})
		t.Run("all by "+way.name, func(t *testing.T) {
			p := pairs(3)
			gone(t, way.out(p[0], true))
			for _, one := range p {
				r.WantEnded(t, one)
			}
			r.WantAlive(t, stranger)
			// An ended session must not end the others, nor claim that it did.
			wantRefusal(t, way.out(p[0], true), http.StatusUnauthorized, "session_ended", nil)
		})
	}
	t.Run("an older refresh token", func(t *testing.T) {
		p := pairs(1)[0]
		next := r.Refresh(p.RefreshToken).Pair(t)
		gone(t, r.Logout("", p.RefreshToken, false))
		r.WantEnded(t, next)
	})
	t.Run("the token of one and the refresh token of another", func(t *testing.T) {
		p := pairs(3)
		gone(t, r.Logout(p[0].Token, p[1].RefreshToken, false))
		r.WantEnded(t, p[0])
		r.WantEnded(t, p[1])
		r.WantAlive(t, p[2])
	})
	t.Run("nothing of ours", func(t *testing.T) {
		p := pairs(1)[0]
		wantRefusal(t, r.Logout("", "", false), http.StatusUnauthorized, "token_missing", nil)
		wantRefusal(t, r.Logout("", "", true), http.StatusUnauthorized, "token_missing", nil)
		wantRefusal(t, r.Logout("somebody.elses.token", "", false), http.StatusUnauthorized, "token_invalid", nil)
		wantRefusal(t, r.Logout(p.Token[:len(p.Token)-4]+"AAAA", "", false), http.StatusUnauthorized, "token_invalid", nil)
		wantRefusal(t, r.Logout("", p.RefreshToken[:len(p.RefreshToken)-4]+"AAAA", false), http.StatusUnauthorized, "refresh_invalid", nil)
		if got := r.Logout("", "", false).Header.Get("WWW-Authenticate"); !strings.HasPrefix(got, "Bearer") {
			t.Errorf("www-authenticate %q", got)
		}
		r.WantAlive(t, p)
	})
	r.WantAlive(t, stranger)
	if hits := len(r.Upstream.Requests()); hits != r.Upstream.Hits() || slices.ContainsFunc(r.Upstream.Requests(), func(s rig.Seen) bool { return s.Path != "/" }) {
		t.Error("something else than / reached the upstream")
	}
}

// A user whose token has expired can still log out.
func TestExpiredTokensLogOut(t *testing.T) {
	t.Parallel()
	r := rig.NewGateway(t, "token {\nlifetime 1s\nleeway 0s\n}")
	expired := func() rig.Pair {
		p := r.MustLogin(t, "13800138000")
		if p.ExpiresIn > 1 {
			t.Fatalf("expires in %d s", p.ExpiresIn)
		}
		rig.Await(t, 10*time.Second, "the token expires", func() bool {
			return r.Get("/", p.Token).Status == http.StatusUnauthorized
		})
		wantRefusal(t, r.Get("/", p.Token), http.StatusUnauthorized, "token_expired", nil)
		return p
	}
	p, other := expired(), r.MustLogin(t, "13800138000")
	r.Logout(p.Token, "", false).Want(t, http.StatusNoContent)
	wantRefusal(t, r.Refresh(p.RefreshToken), http.StatusUnauthorized, "session_ended", nil)
	r.Logout(p.Token, "", false).Want(t, http.StatusNoContent) // it has already ended
	other = r.Refresh(other.RefreshToken).Pair(t)

	// An expired token may be a copy that somebody found, so it ends only its own
	// session.
	p = expired()
	wantRefusal(t, r.Logout(p.Token, "", true), http.StatusUnauthorized, "session_ended", nil)
	wantRefusal(t, r.Refresh(p.RefreshToken), http.StatusUnauthorized, "session_ended", nil)
	other = r.Refresh(other.RefreshToken).Pair(t)

	// Together with a current refresh token, an expired token can end all sessions.
	p = expired()
	r.Logout(p.Token, p.RefreshToken, true).Want(t, http.StatusNoContent)
	for _, one := range []rig.Pair{p, other} {
		wantRefusal(t, r.Refresh(one.RefreshToken), http.StatusUnauthorized, "session_ended", nil)
	}
}

// A client reads its user, and only with a good token.
func TestMe(t *testing.T) {
	t.Parallel()
	r := rig.NewGateway(t)
	p := r.MustLogin(t, "13800138000")
	a := r.Me(p.Token)
	rig.WantMembers(t, a.Body, "id", "phoneNumber", "purePhoneNumber", "countryCode", "isNew")
	want := *p.UserInfo
	want.IsNew = false
	if got := a.UserInfo(t); got != want {
		t.Errorf("user %+v, want %+v", got, want)
	}
	if got := a.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("cache-control %q", got)
	}
	wantRefusal(t, r.Me(""), http.StatusUnauthorized, "token_missing", nil)
	wantRefusal(t, r.Me("a.b.c"), http.StatusUnauthorized, "token_invalid", nil)
}

// A user sees the devices with a session and ends one of them.
func TestSessionsOfTheCaller(t *testing.T) {
	t.Parallel()
	r := rig.NewGateway(t)
	const number = "13800138000"
	loginWith := func(userAgent string) rig.Pair {
		codes := r.WeChat.Tap(t, number)
		return r.Do(http.MethodPost, "/auth/wx", map[string]string{"code": codes.Code, "phoneCode": codes.PhoneCode}, "User-Agent: "+userAgent).Pair(t)
	}
	start := time.Now().Add(-time.Second)
	phone, tablet := loginWith("MicroMessenger/phone"), loginWith("MicroMessenger/tablet")
	stranger := r.MustLogin(t, "13900139000")
	tablet = r.Refresh(tablet.RefreshToken).Pair(t)

	a := r.Get("/auth/wx/sessions", phone.Token)
	a.Want(t, http.StatusOK)
	var raw struct{ Sessions []json.RawMessage }
	a.Decode(t, "application/json", &raw)
	for _, s := range raw.Sessions {
		rig.WantMembers(t, string(s), "id", "current", "appid", "createdAt", "refreshedAt", "userAgent", "address")
	}
	list := r.Sessions(t, phone.Token)
	if len(list) != 2 || list[0].ID != rig.SessionOf(t, tablet.Token) || list[1].ID != rig.SessionOf(t, phone.Token) {
		t.Fatalf("sessions %+v", list)
	}
	for i, want := range []rig.Device{
		{Current: false, UserAgent: "MicroMessenger/tablet"},
		{Current: true, UserAgent: "MicroMessenger/phone"},
	} {
		got := list[i]
		if got.Current != want.Current || got.UserAgent != want.UserAgent || got.AppID != rig.AppID || got.Address != "127.0.0.1" {
			t.Errorf("session %+v, want %+v", got, want)
		}
		created, err := time.Parse(time.RFC3339, got.CreatedAt)
		refreshed, err2 := time.Parse(time.RFC3339, got.RefreshedAt)
		if err != nil || err2 != nil || !strings.HasSuffix(got.CreatedAt, "Z") || !strings.HasSuffix(got.RefreshedAt, "Z") {
			t.Errorf("times %s, %s", got.CreatedAt, got.RefreshedAt)
		}
		if created.Before(start) || created.After(time.Now()) || refreshed.After(created) == want.Current {
			t.Errorf("created %s, refreshed %s", created, refreshed)
		}
	}

	end := func(id, token string) rig.Answer {
		return r.Do(http.MethodDelete, "/auth/wx/sessions/"+id, nil, rig.Bearer(token)...)
	}
	for _, id := range []string{rig.SessionOf(t, stranger.Token), "00000000-0000-7000-8000-000000000000", "nonsense"} {
		wantRefusal(t, end(id, phone.Token), http.StatusNotFound, "not_found", nil)
	}
	r.WantAlive(t, stranger)
	wantRefusal(t, end(rig.SessionOf(t, tablet.Token), ""), http.StatusUnauthorized, "token_missing", nil)
	wantRefusal(t, end(rig.SessionOf(t, tablet.Token), stranger.Token), http.StatusNotFound, "not_found", nil)
	r.WantAlive(t, tablet)

	end(rig.SessionOf(t, tablet.Token), phone.Token).Want(t, http.StatusNoContent)
	r.WantEnded(t, tablet)
	wantRefusal(t, end(rig.SessionOf(t, tablet.Token), phone.Token), http.StatusNotFound, "not_found", nil)
	if list := r.Sessions(t, phone.Token); len(list) != 1 || list[0].ID != rig.SessionOf(t, phone.Token) {
		t.Errorf("sessions %+v", list)
	}
	end(rig.SessionOf(t, phone.Token), phone.Token).Want(t, http.StatusNoContent)
	r.WantEnded(t, phone)
	wantRefusal(t, r.Get("/auth/wx/sessions", phone.Token), http.StatusUnauthorized, "token_revoked", nil)
	wantRefusal(t, r.Get("/auth/wx/sessions", ""), http.StatusUnauthorized, "token_missing", nil)
}

// A proxy asks /verify. The answer has the identity, or is 401, whatever the method and the
// other headers are. The request is not in the access log.
func TestVerify(t *testing.T) {
	t.Parallel()
	r := rig.NewGatewayWith(t, rig.GatewaySiteWith("log", "public /auth/wx/verify /open"))
	codes := r.WeChat.Tap(t, "13800138000")
	p := r.Login(codes.Code, codes.PhoneCode).Pair(t)

	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE"} {
		a := r.Do(method, "/auth/wx/verify", nil, "Authorization: Bearer "+p.Token, "X-WX-UNIONID: forged", "X-Forwarded-Uri: /open")
		a.Want(t, http.StatusNoContent)
		for name, want := range map[string]string{
			"X-WX-USER-ID": p.UserInfo.ID, "X-WX-PHONE": "+8613800138000", "X-WX-OPENID": codes.OpenID, "X-WX-APPID": rig.AppID,
			"X-WX-UNIONID": "", "Cache-Control": "no-store",
		} {
			if got := a.Header.Get(name); got != want {
				t.Errorf("%s: %s %q, want %q", method, name, got, want)
			}
		}
	}
	r.Get("/auth/wx/verify/", p.Token).Want(t, http.StatusNoContent)

	refused := func(a rig.Answer, code string) {
		t.Helper()
		wantRefusal(t, a, http.StatusUnauthorized, code, nil)
		if a.Header.Get("X-WX-USER-ID") != "" || !strings.HasPrefix(a.Header.Get("WWW-Authenticate"), "Bearer") {
			t.Errorf("headers of a refusal: %v", a.Header)
		}
	}
	// The `public` rules do not apply to /verify.
	refused(r.Get("/auth/wx/verify", ""), "token_missing")
	refused(r.Get("/auth/wx/verify", "", "X-Forwarded-Uri: /open"), "token_missing")
	refused(r.Get("/auth/wx/verify", "a.b.c"), "token_invalid")
	refused(r.Get("/auth/wx/verify", "", "Authorization: Basic eDp5"), "token_invalid")
	r.Logout(p.Token, "", false).Want(t, http.StatusNoContent)
	refused(r.Get("/auth/wx/verify", p.Token), "token_revoked")

	r.Get("/open", "").Want(t, http.StatusOK)
	r.Caddy.Log.Wait(t, 20*time.Second, "http.log.access", `"uri":"/open"`) // the log works and is complete up to here
	if lines := r.Caddy.Log.Lines("http.log.access", "/auth/wx/verify"); len(lines) > 0 {
		t.Errorf("in the access log: %s", lines[0])
	}
	if hits := r.Upstream.Hits(); hits != 1 {
		t.Errorf("%d requests reached the upstream", hits)
	}
}

// Each endpoint accepts its own methods only. Everything else below the prefix is
// answered by us and never reaches the upstream.
func TestEndpointsTakeTheirMethodsOnly(t *testing.T) {
	t.Parallel()
	r := rig.NewGateway(t, "public /auth/*", "optional /else/*")
	p := r.MustLogin(t, "13800138000")
	asked := r.WeChat.Asked()
	hits := r.Upstream.Hits()
	all := []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
	for path, allowed := range map[string][]string{
		"":               {"POST"},
		"/refresh":       {"POST"},
		"/logout":        {"POST"},
		"/me":            {"GET"},
		"/sessions":      {"GET"},
		"/sessions/some": {"DELETE"},
		"/jwks.json":     {"GET"},
		"/health":        {"GET", "HEAD"},
	} {
		for _, method := range all {
			for _, slash := range []string{"", "/"} {
				a := r.Do(method, "/auth/wx"+path+slash, nil, "Origin: https://example.com", "Access-Control-Request-Method: POST")
				if a.Err != nil {
					t.Fatal(a.Err)
				}
				if slices.Contains(allowed, method) {
					if a.Status == http.StatusMethodNotAllowed || a.Status == http.StatusNotFound {
						t.Errorf("%s %s%s: %d", method, path, slash, a.Status)
					}
					continue
				}
				if a.Status != http.StatusMethodNotAllowed || a.Header.Get("Allow") != strings.Join(allowed, ", ") {
					t.Errorf("%s %s%s: %d, Allow %q", method, path, slash, a.Status, a.Header.Get("Allow"))
				}
				if method != "HEAD" {
					wantRefusal(t, a, http.StatusMethodNotAllowed, "method_not_allowed", nil)
				}
			}
		}
	}
	for _, path := range []string{"/nothing", "/me/x", "/sessions/a/b", "//", "/me//", "/jwks", "/push/" + rig.AppID, "/service/revoke", "/Refresh"} {
		for _, method := range []string{"GET", "POST", "OPTIONS"} {
			wantRefusal(t, r.Do(method, "/auth/wx"+path, nil, rig.Bearer(p.Token)...), http.StatusNotFound, "not_found", nil)
		}
	}
	if n := r.Upstream.Hits() - hits; n != 0 {
		t.Errorf("%d requests reached the upstream", n)
	}
	if n := r.WeChat.Asked() - asked; n != 0 {
		t.Errorf("WeChat was asked %d times", n)
	}
	// TRACE is never allowed.
	for _, path := range []string{"/auth/wx/me", "/other"} {
		wantRefusal(t, r.Do("TRACE", path, nil, rig.Bearer(p.Token)...), http.StatusMethodNotAllowed, "method_not_allowed", nil)
	}

	// Other spellings of the prefix are not ours: they are ordinary requests, which
	// need a token.
	r.MustReload(t, rig.GatewaySite())
	for _, path := range []string{"/auth/wxx", "/AUTH/wx/me", "//auth/wx/me", "/auth//wx/me", "/auth/w%78/me", "/auth%2fwx/me", "/auth/wx%2fme", "/x/../auth/wx/me"} {
		wantRefusal(t, rig.Raw(r.Caddy.Addr, "GET "+path+" HTTP/1.1\r\nHost: "+r.Caddy.Addr+"\r\n\r\n"), http.StatusUnauthorized, "token_missing", nil)
		hits := r.Upstream.Hits()
		if a := rig.Raw(r.Caddy.Addr, "GET "+path+" HTTP/1.1\r\nHost: "+r.Caddy.Addr+"\r\nAuthorization: Bearer "+p.Token+"\r\n\r\n"); a.Status != http.StatusOK || r.Upstream.Hits() != hits+1 {
			t.Errorf("%s with a token: %d %v", path, a.Status, a.Err)
		}
	}

	r.MustReload(t, rig.GatewaySite("endpoints /login"))
	codes := r.WeChat.Tap(t, "13800138000")
	moved := r.Do(http.MethodPost, "/login/", map[string]string{"code": codes.Code, "phoneCode": codes.PhoneCode}).Pair(t)
	r.Get("/login/me", moved.Token).Want(t, http.StatusOK)
	if seen := r.Get("/auth/wx/me", moved.Token).Seen(t); seen.Path != "/auth/wx/me" {
		t.Errorf("seen %s", seen.Path)
	}
}

// A load balancer asks for the health without a token.
func TestHealth(t *testing.T) {
	t.Parallel()
	r := rig.NewGateway(t)
	for _, method := range []string{"GET", "HEAD"} {
		a := r.Do(method, "/auth/wx/health", nil)
		a.Want(t, http.StatusOK)
		if a.Body != "" || a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: body %q, cache-control %q", method, a.Body, a.Header.Get("Cache-Control"))
		}
	}
	if r.Upstream.Hits() != 0 || r.WeChat.Asked() != 0 {
		t.Error("the probe reached the upstream or WeChat")
	}
}
