package caddymodule

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// A setting whose value is known only on the machine that serves is refused there. The error
// names it and the remedy, and holds no secret.
func TestSettingsRefuseAtProvision(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("WXT_EMPTY", "")
	t.Setenv("WXT_BLANK", " ")
	t.Setenv("WXT_SHORT", "short-hs256-secret")
	t.Setenv("WXT_SPACE", "se cret")
	t.Setenv("WXT_APPID", "wx0123456789abcdef")
	t.Setenv("WXT_HTTP", "http://api.weixin.qq.com")
	t.Setenv("WXT_PG", "postgres://wx:pa55word@db/wx")
	t.Setenv("WXT_KEY", "bm90IDMyIGJ5dGVz")
	t.Setenv("WXT_WORDS", "two words")
	t.Setenv("WXT_SAME", strings.Repeat("abc", 20))
	t.Setenv("WXT_ONE", strings.Repeat("a", 16))
	t.Setenv("WXT_LONG", strings.Repeat("abcdefgh", 33))
	t.Setenv("WXT_BOM", "\ufeffsixteen--letters")
	t.Setenv("WXT_LINES", "sixteen--letters\n")
	t.Setenv("WXT_HEX", "0f1e2d3c4b5a69788796a5b4c3d2e1f0")
	d := func(d time.Duration) caddy.Duration { return caddy.Duration(d) }

	for name, c := range map[string]struct {
		h    Handler
		want string // a part of the error
	}{
		"missing variable":     {Handler{Apps: []App{{ID: "wx0123456789abcdef", Secret: "{env.WXT_MISSING}"}}}, "app: the secret: {env.WXT_MISSING} is empty: set the environment variable WXT_MISSING"},
		"empty variable":       {Handler{Apps: []App{{ID: "{env.WXT_EMPTY}", Secret: "s"}}}, "app: the appid: {env.WXT_EMPTY} is empty: set the environment variable WXT_EMPTY"},
		"blank variable":       {Handler{Apps: []App{{ID: "{env.WXT_BLANK}", Secret: "s"}}}, "{env.WXT_BLANK} is empty"},
		"missing file":         {Handler{Apps: []App{{ID: "wx0123456789abcdef", Secret: "{file./nowhere/secret}"}}}, "{file./nowhere/secret} is empty: the file must exist"},
		"empty file":           {Handler{Apps: []App{{ID: "wx0123456789abcdef", Secret: "{file." + empty + "}"}}}, "is empty: the file must exist"},
		"unread placeholder":   {Handler{Apps: []App{{ID: "{$WX_APPID}", Secret: "s"}}}, "{$WX_APPID} cannot be used here"},
		"no secret":            {Handler{Apps: []App{{ID: "wx0123456789abcdef"}}}, "both the appid and its secret are needed"},
		"no app":               {Handler{}, "there is no mini program"},
		"secret with space":    {Handler{Apps: []App{{ID: "wx0123456789abcdef", Secret: "{env.WXT_SPACE}"}}}, "copy it again"},
		"same app twice":       {Handler{Apps: []App{{ID: "wx0123456789abcdef", Secret: "s"}, {ID: "{env.WXT_APPID}", Secret: "s"}}}, "the appid {env.WXT_APPID} is given twice"},
		"short HS256 secret":   {Handler{Apps: oneApp(), Token: &Token{Algorithm: "HS256", Key: "{env.WXT_SHORT}"}}, "token key: an HS256 secret of 18 bytes is too short"},
		"key without value":    {Handler{Apps: oneApp(), Token: &Token{Algorithm: "HS256", Key: "{env.WXT_EMPTY}"}}, "token key: {env.WXT_EMPTY} is empty"},
		"service key":          {Handler{Apps: oneApp(), ServiceKey: "{env.WXT_SHORT}"}, "service_key: the key could be guessed"},
		"service key repeated": {Handler{Apps: oneApp(), ServiceKey: "{env.WXT_SAME}"}, "service_key: the key could be guessed"},
		"service key empty":    {Handler{Apps: oneApp(), ServiceKey: "{env.WXT_EMPTY}"}, "service_key: {env.WXT_EMPTY} is empty"},
		"push token":           {Handler{Apps: []App{{ID: "wx0123456789abcdef", Secret: "s", Push: &Push{Token: "{env.WXT_WORDS}", EncodingAESKey: "k"}}}}, "app push: the token has 3 to 32 letters and digits"},
		"push without a key":   {Handler{Apps: []App{{ID: "wx0123456789abcdef", Secret: "s", Push: &Push{Token: "token"}}}}, "app push: the EncodingAESKey has 43"},
		"app's api":            {Handler{Apps: []App{{ID: "wx0123456789abcdef", Secret: "s", API: []string{"{env.WXT_HTTP}"}}}}, "app api: over http the AppSecret"},
		"issuer":               {Handler{Apps: oneApp(), Token: &Token{Issuer: "{env.WXT_WORDS}"}}, "token issuer: \"{env.WXT_WORDS}\" is not a name"},
		"encryption key":       {Handler{Apps: oneApp(), EncryptionKeys: []string{"{env.WXT_KEY}"}}, "encryption_key: the encryption key: use 32 bytes in base64"},
		"no encryption key":    {Handler{Apps: oneApp(), Store: &Store{URL: "{env.WXT_PG}"}}, "store: postgres needs encryption_key"},
		"api over http":        {Handler{Apps: oneApp(), WeChat: &WeChat{API: []string{"{env.WXT_HTTP}"}}}, "wechat api: over http the AppSecret would travel in clear"},
		"negative lifetime":    {Handler{Apps: oneApp(), Token: &Token{Lifetime: d(-time.Hour)}}, "token lifetime: -1h is negative"},
		"endless rotate":       {Handler{Apps: oneApp(), Token: &Token{Rotate: d(200 * 365 * day)}}, "token rotate: 73000d is more than a hundred years"},
		"negative idle":        {Handler{Apps: oneApp(), Session: &Session{Idle: d(-1)}}, "session idle: "},
		"negative grace":       {Handler{Apps: oneApp(), Session: &Session{Grace: d(-1)}}, "session grace: "},
		"idle in nanoseconds":  {Handler{Apps: oneApp(), Session: &Session{Idle: 3600}}, "session idle: 3.6µs is too short: use 1s or more, such as 30d; in JSON"},
		"short lifetime":       {Handler{Apps: oneApp(), Session: &Session{Lifetime: d(time.Second - 1)}}, "session lifetime: 999.999999ms is too short"},
		"short grace":          {Handler{Apps: oneApp(), Session: &Session{Grace: 60}}, "session grace: 60ns is too short: use 1ms or more, such as 1m"},
		"short max age":        {Handler{Apps: oneApp(), SilentLogin: &SilentLogin{MaxAge: 90}}, "silent_login: 90ns is too short: use 100ms or more, such as 90d"},
		"endless max age":      {Handler{Apps: oneApp(), SilentLogin: &SilentLogin{MaxAge: d(200 * 365 * day)}}, "silent_login: 73000d is more than a hundred years"},
		"short token":          {Handler{Apps: oneApp(), Token: &Token{Lifetime: 3600}}, "token lifetime: 3.6µs is not in whole seconds"},
		"no sessions":          {Handler{Apps: oneApp(), Session: &Session{Max: new(0)}}, "session max: 0 is not a number of sessions: use 1 to 1000"},
		"negative sessions":    {Handler{Apps: oneApp(), Session: &Session{Max: new(-1)}}, "session max: -1 is not"},
		"too many sessions":    {Handler{Apps: oneApp(), Session: &Session{Max: new(1001)}}, "session max: 1001 is not"},
		"negative leeway":      {Handler{Apps: oneApp(), Token: &Token{Leeway: new(d(-1))}}, "token leeway: "},
		"negative timeout":     {Handler{Apps: oneApp(), WeChat: &WeChat{Timeout: d(-1)}}, "wechat timeout: "},
		"negative max age":     {Handler{Apps: oneApp(), SilentLogin: &SilentLogin{MaxAge: d(-1)}}, "silent_login: "},
		"off with an age":      {Handler{Apps: oneApp(), SilentLogin: &SilentLogin{Off: true, MaxAge: d(day)}}, "silent_login: it is off and has a max age"},
		"rate of nothing":      {Handler{Apps: oneApp(), LoginRate: &Rate{Per: d(time.Minute)}}, "login_rate: use a number"},
		"rate without time":    {Handler{Apps: oneApp(), LoginRate: &Rate{Count: 3}}, "login_rate: use a number"},
		"test secret":          {Handler{Apps: oneApp(), TestLogin: &TestLogin{"{env.WXT_WORDS}", "+8613000000000", "2026-12-31"}}, "test_login: the secret: it could be guessed"},
		"test secret of one":   {testBy("{env.WXT_ONE}"), "test_login: the secret: it could be guessed"},
		"test secret of words": {testBy("{env.WXT_LONG}"), "test_login: the secret: it could be guessed"},
		"test secret with BOM": {testBy("{env.WXT_BOM}"), "test_login: the secret: it begins or ends with a space"},
		"test secret: lines":   {testBy("{env.WXT_LINES}"), "test_login: the secret: it begins or ends with a space"},
		"test secret: app":     {testBy("{env.WXT_HEX}", "{env.WXT_HEX}"), "test_login: the secret of test_login is an AppSecret, too"},
		"test secret: appid":   {testBy("{env.WXT_APPID}"), "test_login: the secret of test_login is an appid, too"},
		"test secret: service": {withKeys("{env.WXT_HEX}", "", testBy("{env.WXT_HEX}")), "test_login: the secret of test_login is the service_key, too"},
		"HS256: service":       {withKeys("{env.WXT_HEX}", "{env.WXT_HEX}", Handler{Apps: oneApp()}), "service_key: the service_key is the key of `token`, too"},
		"HS256: app":           {withKeys("", "{env.WXT_HEX}", testBy("sixteen--letters", "{env.WXT_HEX}")), "token key: the key of `token` is an AppSecret, too"},
		"HS256: encryption":    {Handler{Apps: oneApp(), EncryptionKeys: []string{keyA}, Token: &Token{Algorithm: "HS256", Key: keyA}}, "token key: the key of `token` is an encryption_key, too"},
		"test secret empty":    {Handler{Apps: oneApp(), TestLogin: &TestLogin{"{env.WXT_EMPTY}", "+8613000000000", "2026-12-31"}}, "test_login: the secret: {env.WXT_EMPTY} is empty"},
		"rule without path":    {Handler{Apps: oneApp(), Public: []Rule{{Methods: []string{"GET"}}}}, "public names methods but no path"},
		"method as a path":     {Handler{Apps: oneApp(), Public: []Rule{{Paths: []string{"POST", "/x"}}}}, `public: "POST" is not a path`},
		"path as a method":     {Handler{Apps: oneApp(), Public: []Rule{{Methods: []string{"/secret"}, Paths: []string{"/y"}}}}, `public: "/secret" is not a method`},
		"star as a method":     {Handler{Apps: oneApp(), Public: []Rule{{Methods: []string{"*"}, Paths: []string{"/y"}}}}, `public: "*" is not a method`},
		"age of a millisecond": {Handler{Apps: oneApp(), Require: []Requirement{{Paths: []string{"/a"}, Field: "phone_within", Values: []string{"1ms"}}}}, "is not an age from 100ms"},
		"same audience twice":  {Handler{Apps: oneApp(), Token: &Token{Audience: []string{"{env.WXT_HEX}", "{env.WXT_HEX}"}}}, `token audience: "{env.WXT_HEX}" is given twice`},
		"secret as an appid":   {Handler{Apps: oneApp(), Require: []Requirement{{Paths: []string{"/a"}, Field: "appid", Values: []string{"{env.WXT_HEX}"}}}}, "appid {env.WXT_HEX} is not one of"},
		"url for stable":       {Handler{Apps: oneApp(), WeChat: &WeChat{AccessTokenURL: "https://x.example.com"}}, "wechat access_token: stable takes no URL"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.h.settings()
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			for _, secret := range []string{"s3cret", "pa55word", "short-hs256", "se cret", "bm90IDMy", "0f1e2d3c", "sixteen"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("the error holds a secret: %v", err)
				}
			}
		})
	}
}

// testBy is a configuration with a test login by a secret, and an app with another one.
func testBy(secret string, appSecret ...string) Handler {
	h := Handler{Apps: oneApp(), TestLogin: &TestLogin{secret, "+8613000000000", "2026-12-31"}}
	if len(appSecret) > 0 {
		h.Apps[0].Secret = appSecret[0]
	}
	return h
}

// withKeys adds a service key and an HS256 key.
func withKeys(service, hs256 string, h Handler) Handler {
	h.ServiceKey = service
	if hs256 != "" {
		h.Token = &Token{Algorithm: "HS256", Key: hs256}
	}
	return h
}
