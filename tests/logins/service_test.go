package logins

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

const (
	serviceKey   = rig.ServiceKey
	withKey      = "service_key " + serviceKey
	revokePath   = "/auth/wx/service/revoke"
	userPath     = "/auth/wx/service/users/"
	someNumber   = "13800138000"
	anotherOne   = "13900139000"
	noSuchUserID = "01a20a30-eddd-71c0-b9f8-bb3f5de858db"
)

// serve calls a service endpoint as the backend does.
func serve(g *rig.Gateway, method, path string, body any) rig.Answer {
	return g.Do(method, path, body, rig.Bearer(serviceKey)...)
}

// Without a configured key the service endpoints do not exist, and nothing shows that
// they could.
func TestServiceNeedsAConfiguredKey(t *testing.T) {
	t.Parallel()
	g := rig.NewGateway(t)
	nothing := g.Get("/auth/wx/service/nothing", "").Whole(t)
	for _, c := range []struct{ method, path string }{
		{http.MethodPost, revokePath}, {http.MethodGet, revokePath}, {http.MethodGet, userPath + "x"},
		{http.MethodPatch, userPath + "x"}, {http.MethodDelete, userPath + "x"}, {http.MethodPut, userPath + "x"},
	} {
		a := serve(g, c.method, c.path, nil)
		a.Want(t, http.StatusNotFound)
		if whole := a.Whole(t); whole != nothing {
			t.Errorf("%s %s answers\n%s\nnot as a path without an endpoint:\n%s", c.method, c.path, whole, nothing)
		}
	}
	if n := g.Upstream.Hits(); n != 0 {
		t.Errorf("%d requests reached the upstream", n)
	}
}

// An attacker tries tokens, headers and near misses in place of the service key. All
// get the same answer.
func TestServiceRequiresItsKey(t *testing.T) {
	t.Parallel()
	g := rig.NewGateway(t, withKey)
	p := g.MustLogin(t, someNumber)
	path := userPath + p.UserInfo.ID
	var first string
	for name, headers := range map[string][]string{
		"none":               nil,
		"a user's token":     rig.Bearer(p.Token),
		"shorter":            rig.Bearer(serviceKey[1:]),
		"longer":             rig.Bearer(serviceKey + "0"),
		"upper case":         rig.Bearer(strings.ToUpper(serviceKey)),
		"Basic":              {"Authorization: Basic " + serviceKey},
		"bare":               {"Authorization: " + serviceKey},
		"in another header":  {"X-Service-Key: " + serviceKey},
		"in another's place": {"Cookie: __Host-wx-auth=" + serviceKey},
	} {
		for _, method := range []string{http.MethodGet, http.MethodPatch, http.MethodDelete} {
			a := g.Do(method, path, map[string]bool{"disabled": true}, headers...)
			a.WantProblem(t, http.StatusUnauthorized, "service_key_invalid", nil)
			if got := a.Header.Get("WWW-Authenticate"); !strings.HasPrefix(got, "Bearer ") {
				t.Errorf("%s: challenge %q", name, got)
			}
			if first == "" {
				first = a.Whole(t)
			} else if whole := a.Whole(t); whole != first {
				t.Errorf("%s: answers differ:\n%s\n%s", name, whole, first)
			}
		}
	}
	g.Get(path+"?key="+serviceKey, "").WantProblem(t, http.StatusUnauthorized, "service_key_invalid", nil)
	two := rig.Raw(g.Caddy.Addr, "GET "+path+" HTTP/1.1\r\nHost: "+g.Caddy.Addr+"\r\nAuthorization: Bearer "+serviceKey+"\r\nAuthorization: Bearer "+serviceKey+"\r\n\r\n")
	two.WantProblem(t, http.StatusUnauthorized, "service_key_invalid", nil)
	g.WantAlive(t, p)

	// The service key is not a token: nothing else accepts it.
	g.Get("/", serviceKey).WantProblem(t, http.StatusUnauthorized, "token_invalid", nil)
	g.Me(serviceKey).WantProblem(t, http.StatusUnauthorized, "token_invalid", nil)

	serve(g, http.MethodGet, path+"/", nil).Want(t, http.StatusOK)
	for path, allow := range map[string]string{revokePath: "POST", path: "GET, PATCH, DELETE"} {
		a := serve(g, http.MethodPut, path, nil)
		a.WantProblem(t, http.StatusMethodNotAllowed, "method_not_allowed", nil)
		if got := a.Header.Get("Allow"); got != allow {
			t.Errorf("%s: Allow %q", path, got)
		}
	}
}

// The key comes from the environment. It must not be in the configuration that Caddy
// shows, nor in the log.
func TestServiceKeyIsNotShownByCaddy(t *testing.T) {
	t.Parallel()
	g := &rig.Gateway{WeChat: rig.NewWeChat(t), Upstream: rig.NewUpstream(t)}
	g.Caddy = rig.StartCaddy(t, rig.GatewaySite("service_key {env.SERVICE_KEY}"), append(g.WeChat.Environ(g.Upstream.Addr), "SERVICE_KEY="+serviceKey)...)
	g.Client = g.Caddy.Client()
	serve(g, http.MethodGet, userPath+noSuchUserID, nil).WantProblem(t, http.StatusNotFound, "not_found", nil)
	if config, err := g.Caddy.Admin("/config/"); err != nil || strings.Contains(config, serviceKey) || !strings.Contains(config, "{env.SERVICE_KEY}") {
		t.Errorf("%s %v", config, err)
	}
	if strings.Contains(g.Caddy.Log.String(), serviceKey) {
		t.Error("the key is in the log")
	}
}

// An attacker guesses service keys. The limit stops that client alone, not the backend.
func TestWrongServiceKeysAreCountedByClient(t *testing.T) {
	t.Parallel()
	proxies := "servers {\ntrusted_proxies static 127.0.0.1/32\ntrusted_proxies_strict\n}"
	g := rig.NewGatewayWith(t, rig.Site("wx_auth {env.WX_APPID} {env.WX_SECRET} {\nwechat {\napi {$WX_API}\n}\n"+withKey+"\n}\nreverse_proxy {$UPSTREAM}", proxies))
	ask := func(key, from string) rig.Answer {
		return g.Do(http.MethodGet, userPath+noSuchUserID, nil, "Authorization: Bearer "+key, "X-Forwarded-For: "+from)
	}
	for i := range 10 {
		ask(fmt.Sprint("guess-", i), "203.0.113.7").WantProblem(t, http.StatusUnauthorized, "service_key_invalid", nil)
	}
	for _, key := range []string{"guess", serviceKey} { // not even the right key is compared
		a := ask(key, "203.0.113.7")
		a.WantProblem(t, http.StatusTooManyRequests, "rate_limited", nil)
		if a.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
	}
	for range 30 { // requests with the right key are not counted
		ask(serviceKey, "203.0.113.8").WantProblem(t, http.StatusNotFound, "not_found", nil)
	}
}

// seenUser is a user as the backend sees them.
type seenUser struct {
	rig.UserInfo
	Disabled  bool
	CreatedAt time.Time
	OpenIDs   []struct{ AppID, OpenID, UnionID, PhoneLoginAt string }
	Sessions  []rig.Device
}

func show(t *testing.T, g *rig.Gateway, id string) (u seenUser) {
	t.Helper()
	a := serve(g, http.MethodGet, userPath+id, nil)
	a.Want(t, http.StatusOK)
	a.Decode(t, "application/json", &u)
	return u
}

// The backend reads a user with their number, openids and sessions.
func TestServiceShowsAUser(t *testing.T) {
	t.Parallel()
	g := rig.NewGateway(t, withKey)
	p := g.MustLogin(t, someNumber)
	g.MustLogin(t, someNumber)
	g.MustLogin(t, anotherOne)
	a := serve(g, http.MethodGet, userPath+p.UserInfo.ID, nil)
	a.Want(t, http.StatusOK)
	rig.WantMembers(t, a.Body, "id", "phoneNumber", "purePhoneNumber", "countryCode", "createdAt", "disabled", "openids", "sessions")
	if strings.Contains(a.Body, "current") || a.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%s %v", a.Body, a.Header)
	}
	u := show(t, g, p.UserInfo.ID)
	if u.ID != p.UserInfo.ID || u.PhoneNumber != "+86"+someNumber || u.Disabled || time.Since(u.CreatedAt) > time.Minute ||
		len(u.OpenIDs) != 1 || u.OpenIDs[0].AppID != rig.AppID || u.OpenIDs[0].OpenID == "" || len(u.Sessions) != 2 {
		t.Errorf("%+v", u)
	}
	for _, id := range []string{noSuchUserID, "nobody", "%20", "a%2Fb", "a/b", "%00", strings.Repeat("a", 129), ""} {
		serve(g, http.MethodGet, userPath+id, nil).WantProblem(t, http.StatusNotFound, "not_found", nil)
	}
}

// The backend ends a user's sessions, or one of them.
func TestServiceRevokes(t *testing.T) {
	t.Parallel()
	g := rig.NewGateway(t, withKey)
	one, two, other := g.MustLogin(t, someNumber), g.MustLogin(t, someNumber), g.MustLogin(t, anotherOne)
	revoke := func(body any) rig.Answer { return serve(g, http.MethodPost, revokePath, body) }

	for range 2 { // again, after the session has ended
		revoke(map[string]string{"sessionId": rig.SessionOf(t, one.Token)}).Want(t, http.StatusNoContent)
		g.WantEnded(t, one)
		g.WantAlive(t, two)
	}
	three := g.MustLogin(t, someNumber)
	for range 2 {
		revoke(map[string]string{"userId": one.UserInfo.ID}).Want(t, http.StatusNoContent)
		g.WantEnded(t, two)
		g.WantEnded(t, three)
		g.WantAlive(t, other)
	}
	if again := g.MustLogin(t, someNumber); again.UserInfo.ID != one.UserInfo.ID {
		t.Error("after their sessions ended, somebody is another user")
	}
	g.Caddy.Log.Wait(t, 20*time.Second, `"service: revoke"`, one.UserInfo.ID, rig.SessionOf(t, three.Token), `"address":"127.0.0.1"`)
	g.Caddy.Log.Wait(t, 20*time.Second, `"name":"wx_auth_revoked"`, one.UserInfo.ID, rig.SessionOf(t, one.Token))
	g.Caddy.Log.Wait(t, 20*time.Second, `"name":"wx_auth_revoked"`, one.UserInfo.ID, rig.SessionOf(t, two.Token))

	revoke(map[string]string{"sessionId": noSuchUserID}).WantProblem(t, http.StatusNotFound, "not_found", nil)
	revoke(map[string]string{"userId": noSuchUserID}).Want(t, http.StatusNoContent)
	for _, body := range []any{
		`{}`, `{"userId":"a","sessionId":"b"}`, `{"userId":""}`, `{"userId":1}`, `{"userId":null}`, `[]`, `{"userId":"a","userId":"b"}`,
		`{"userId":"a b"}`, `{"sessionId":"a\u0000"}`, map[string]string{"userId": strings.Repeat("a", 129)},
	} {
		revoke(body).WantProblem(t, http.StatusBadRequest, "invalid_request", nil)
	}
	revoke(`{"userId":"`+strings.Repeat("a", 5000)+`"}`).WantProblem(t, http.StatusRequestEntityTooLarge, "body_too_large", nil)
	g.Do(http.MethodPost, revokePath, "userId=a", "Authorization: Bearer "+serviceKey, "Content-Type: application/x-www-form-urlencoded").
		WantProblem(t, http.StatusUnsupportedMediaType, "unsupported_media_type", nil)
}

func disable(g *rig.Gateway, id string, disabled bool) rig.Answer {
	return serve(g, http.MethodPatch, userPath+id, map[string]bool{"disabled": disabled})
}

// The backend disables a user, whose sessions end, and enables the user again.
func TestServiceDisables(t *testing.T) {
	t.Parallel()
	g := rig.NewGateway(t, withKey)
	p, other := g.MustLogin(t, someNumber), g.MustLogin(t, anotherOne)
	codes := g.WeChat.Tap(t, someNumber)
	for range 2 {
		disable(g, p.UserInfo.ID, true).Want(t, http.StatusNoContent)
		g.WantEnded(t, p)
		g.Silent(g.WeChat.Open(t, someNumber).Code).WantProblem(t, http.StatusForbidden, "user_disabled", nil)
		g.Login(codes.Code, codes.PhoneCode).WantProblem(t, http.StatusForbidden, "user_disabled", nil)
		if !show(t, g, p.UserInfo.ID).Disabled {
			t.Error("shown as enabled")
		}
		g.WantAlive(t, other)
	}
	for range 2 {
		disable(g, p.UserInfo.ID, false).Want(t, http.StatusNoContent)
	}
	g.WantEnded(t, p) // the ended session stays ended
	if again := g.MustLogin(t, someNumber); again.UserInfo.ID != p.UserInfo.ID || again.UserInfo.IsNew {
		t.Errorf("enabled again, they are %+v", *again.UserInfo)
	}
	disable(g, noSuchUserID, true).WantProblem(t, http.StatusNotFound, "not_found", nil)
	for _, body := range []string{`{}`, `{"disabled":null}`, `{"disabled":"true"}`, `{"disabled":1}`, `{"disabled":true,"disabled":false}`} {
		serve(g, http.MethodPatch, userPath+p.UserInfo.ID, body).WantProblem(t, http.StatusBadRequest, "invalid_request", nil)
	}
	for _, what := range []string{"disable", "enable"} {
		g.Caddy.Log.Wait(t, 20*time.Second, `"service: `+what+`"`, p.UserInfo.ID)
		g.Caddy.Log.Wait(t, 20*time.Second, `"name":"wx_auth_user_`+what+`d"`, p.UserInfo.ID)
	}
}

// The backend erases a user. Nothing about the person may be left.
func TestServiceErases(t *testing.T) {
	t.Parallel()
	g := rig.NewGateway(t, withKey)
	p, other := g.MustLogin(t, someNumber), g.MustLogin(t, anotherOne)
	openid := show(t, g, p.UserInfo.ID).OpenIDs[0].OpenID
	erase := func() rig.Answer { return serve(g, http.MethodDelete, userPath+p.UserInfo.ID, nil) }
	erase().Want(t, http.StatusNoContent)
	g.WantEnded(t, p)
	serve(g, http.MethodGet, userPath+p.UserInfo.ID, nil).WantProblem(t, http.StatusNotFound, "not_found", nil)
	g.Silent(g.WeChat.Open(t, someNumber).Code).WantProblem(t, http.StatusForbidden, "phone_required", nil)
	db := g.Caddy.OpenStore(t)
	defer db.Close()
	for query, want := range map[string]int{
		`SELECT COUNT(*) FROM wx_auth_users`: 1, `SELECT COUNT(*) FROM wx_auth_user_phones`: 1,
		`SELECT COUNT(*) FROM wx_auth_bindings`:                                                           1,
		`SELECT COUNT(*) FROM wx_auth_sessions WHERE openid = '` + openid + `'`:                           0,
		`SELECT COUNT(*) FROM wx_auth_sessions WHERE address <> '' AND user_id = '` + p.UserInfo.ID + `'`: 0,
	} {
		var n int
		if err := db.QueryRow(query).Scan(&n); err != nil || n != want {
			t.Errorf("%s: %d %v, want %d", query, n, err, want)
		}
	}
	again := g.MustLogin(t, someNumber)
	if again.UserInfo.ID == p.UserInfo.ID || !again.UserInfo.IsNew {
		t.Errorf("the number logs in as %+v", *again.UserInfo)
	}
	erase().Want(t, http.StatusNoContent) // again, for a user who no longer exists
	g.WantAlive(t, again)
	g.WantAlive(t, other)
	g.Caddy.Log.Wait(t, 20*time.Second, `"service: erase"`, p.UserInfo.ID, rig.SessionOf(t, p.Token))
	g.Caddy.Log.Wait(t, 20*time.Second, `"name":"wx_auth_user_erased"`, p.UserInfo.ID)
	for _, line := range g.Caddy.Log.Lines("service: ") {
		if strings.Contains(line, someNumber) {
			t.Errorf("a phone number in %s", line)
		}
	}
}

// While the store cannot be written, no change may be reported as done.
func TestServiceTellsNothingAsDoneThatIsNot(t *testing.T) {
	t.Parallel()
	g := rig.NewGateway(t, withKey)
	p := g.MustLogin(t, someNumber)
	asks := map[string]func() rig.Answer{
		"revoke user": func() rig.Answer {
			return serve(g, http.MethodPost, revokePath, map[string]string{"userId": p.UserInfo.ID})
		},
		"revoke session": func() rig.Answer {
			return serve(g, http.MethodPost, revokePath, map[string]string{"sessionId": rig.SessionOf(t, p.Token)})
		},
		"disable": func() rig.Answer { return disable(g, p.UserInfo.ID, true) },
		"erase":   func() rig.Answer { return serve(g, http.MethodDelete, userPath+p.UserInfo.ID, nil) },
	}
	unlock := g.Caddy.Lock(t)
	answers := make(map[string]<-chan rig.Answer)
	for name, ask := range asks {
		answers[name] = rig.InBackground(ask)
	}
	for name, a := range answers {
		if a := rig.Within(t, 30*time.Second, name, a); a.Err != nil || a.Status != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" {
			t.Errorf("%s: %d %s %v", name, a.Status, a.Body, a.Err)
		}
	}
	unlock()
	g.WantAlive(t, p)
	for _, name := range []string{"revoke session", "revoke user", "disable", "erase"} {
		asks[name]().Want(t, http.StatusNoContent)
	}
	g.WantEnded(t, p)
}

// A login has passed the directory when its user is disabled. It must not open a
// session.
func TestDisablingCatchesLoginsUnderWay(t *testing.T) {
	t.Parallel()
	g := rig.NewGateway(t, withKey)
	p := g.MustLogin(t, someNumber)
	for round := range 10 {
		disableAndLogIn(t, g, p.UserInfo.ID)
		var live int
		db := g.Caddy.OpenStore(t)
		err := db.QueryRow(`SELECT COUNT(*) FROM wx_auth_sessions WHERE ended_at = 0`).Scan(&live)
		db.Close()
		if err != nil || live != 0 {
			t.Fatalf("round %d: %d sessions of a disabled user: %v", round, live, err)
		}
		disable(g, p.UserInfo.ID, false).Want(t, http.StatusNoContent)
	}
}

// disableAndLogIn disables the user and logs in at the same time.
func disableAndLogIn(t *testing.T, g *rig.Gateway, id string) {
	t.Helper()
	var logins []<-chan rig.Answer
	for range 4 {
		codes := g.WeChat.Tap(t, someNumber)
		logins = append(logins, rig.InBackground(func() rig.Answer { return g.Login(codes.Code, codes.PhoneCode) }))
	}
	disable(g, id, true).Want(t, http.StatusNoContent)
	for _, l := range logins {
		a := rig.Within(t, 30*time.Second, "a login", l)
		if a.Err != nil || a.Status != http.StatusOK && a.Status != http.StatusForbidden {
			t.Fatalf("%d %s %v", a.Status, a.Body, a.Err)
		}
	}
}

// A service key that can be guessed is refused when the configuration is loaded.
func TestWeakServiceKeyIsRefusedAtLoad(t *testing.T) {
	t.Parallel()
	g := &rig.Gateway{WeChat: rig.NewWeChat(t), Upstream: rig.NewUpstream(t)}
	for _, key := range []string{"short", strings.Repeat("ab", 30), ""} {
		c := rig.NewCaddy(t, append(g.WeChat.Environ(g.Upstream.Addr), "SERVICE_KEY="+key)...)
		err := c.TryStart(rig.GatewaySite("service_key {env.SERVICE_KEY}"))
		if err == nil || !strings.Contains(c.Log.String(), "service_key") {
			t.Errorf("%q: %v", key, err)
		}
		if key != "" && strings.Contains(c.Log.String(), `"`+key) {
			t.Errorf("%q is in the log", key)
		}
	}
}

// The paths of service endpoints contain users' ids, and their answers contain phone numbers.
// So the access log must have neither, and our own log lines must have no number.
func TestServiceStaysOutOfTheAccessLog(t *testing.T) {
	t.Parallel()
	g := rig.NewGateway(t, withKey)
	p := g.MustLogin(t, someNumber)
	serve(g, http.MethodPost, userPath+"find", map[string]string{"phone": "+86" + someNumber}).Want(t, http.StatusOK)
	serve(g, http.MethodGet, userPath+p.UserInfo.ID+"/export", nil).Want(t, http.StatusOK)
	serve(g, http.MethodGet, strings.TrimSuffix(userPath, "/")+"?limit=5", nil).Want(t, http.StatusOK)
	for _, what := range []string{"service: find", "service: export", "service: list"} {
		g.Caddy.Log.Wait(t, 20*time.Second, what)
	}
	if lines := g.Caddy.Log.Lines("/auth/wx/service"); len(lines) > 0 {
		t.Errorf("%q", lines)
	}
	if lines := g.Caddy.Log.Lines(someNumber); len(lines) > 0 {
		t.Errorf("%q", lines)
	}
}
