package caddymodule

import (
	"encoding/json"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Handler logs WeChat mini program users in by their phone number and lets
// through, with the caller's identity in headers, only requests that carry one
// of its tokens.
//
// Ids, secrets, URLs, keys and names may contain the placeholders {env.NAME}
// and {file./absolute/path}. They are replaced once, when the configuration is
// loaded; an empty one is an error. The configuration that Caddy shows keeps
// the placeholders, so write secrets as placeholders.
//
// One wx_auth belongs on each way that a request can take: a request that
// reaches a second one is answered with status 500.
type Handler struct {
	// Which requests need a token; all, if there is no matcher. The endpoints
	// are served, and identity headers from outside removed, on every request
	// that reaches this handler, whatever the matcher says.
	MatcherRaw caddy.ModuleMap `json:"match,omitempty" caddy:"namespace=http.matchers"`

	// The mini programs that log in here. At least one.
	Apps []App `json:"apps,omitempty"`

	// The path under which the endpoints live: POST to it is the login. No
	// request under it reaches the upstream. Default: /auth/wx
	Endpoints string `json:"endpoints,omitempty"`

	// Requests that need no token. They carry no identity either.
	Public []Rule `json:"public,omitempty"`

	// Paths that take the caller's identity from a token if there is one, and
	// are anonymous if there is none. A path is exact, or ends in /* for all
	// below it.
	Optional []string `json:"optional,omitempty"`

	// Who may call some paths. A path that one of these matches needs a token, whatever
	// public, optional and the matcher say. If several match, all must hold; on a path
	// that an upstream may take for another one, all of them.
	Require []Requirement `json:"require,omitempty"`

	// Where users, sessions and keys are kept.
	Store *Store `json:"store,omitempty"`

	// The keys that seal personal data at rest and in tokens, each 32 bytes in
	// base64. The first seals, the others still open what they sealed. Required
	// with postgres and mysql; with sqlite, one is generated beside the file.
	EncryptionKeys []string `json:"encryption_keys,omitempty"`

	// Where users live, if that is not the store: a backend of yours, or a table.
	UsersRaw json.RawMessage `json:"users,omitempty" caddy:"namespace=wx_auth.users inline_key=source"`

	// Whether an unknown phone number becomes a user. Default: true
	Register *bool `json:"register,omitempty"`

	// The country calling codes ("86", "852") that an unknown phone number must
	// have to become a user. Users log in whatever theirs is. Default: all
	Countries []string `json:"countries,omitempty"`

	// Logins with wx.login's code alone, by those who are known.
	SilentLogin *SilentLogin `json:"silent_login,omitempty"`

	// What happens when a known phone number arrives with another WeChat account.
	// "replace" (default) ends the sessions of all other accounts of the user; their
	// openids lose their bindings in this app, and are suspended in other apps until
	// they log in with the number again. "keep" lets all stay. "deny" refuses the
	// login if the user has, or last had, another account, and else works like
	// "replace".
	OnNewOpenID string `json:"on_new_openid,omitempty"`

	// The tokens that are given to callers.
	Token *Token `json:"token,omitempty"`

	// How long a login lasts.
	Session *Session `json:"session,omitempty"`

	// The headers that tell the upstream who is calling. Default: X-WX-USER-ID,
	// X-WX-OPENID, X-WX-APPID, X-WX-UNIONID and X-WX-PHONE. Once given, only
	// those given are set.
	Identity []Identity `json:"identity,omitempty"`

	// Headers under X-WX- that a trusted proxy may send to the upstream, such as
	// X-WX-Risk-Rank of WeChat's own gateway. Without it all of them are removed. The
	// server needs trusted_proxies.
	PassHeaders []string `json:"pass_headers,omitempty"`

	// Where a token may stand beside Authorization: a cookie, a query parameter,
	// a WebSocket's sub-protocol. Default: nowhere else
	Credentials []Credential `json:"credentials,omitempty"`

	// Whether the upstream gets to see our token in Authorization. By default
	// it is removed.
	ForwardToken bool `json:"forward_token,omitempty"`

	// How many logins WeChat may refuse to one client, and, with as many more as
	// have succeeded within the last minute, how many may be under way. A client is
	// an address (IPv6: its /64), or the session of a login that carries its refresh
	// token. Off where Caddy sees private addresses only. Default: 30 a minute
	LoginRate *Rate `json:"login_rate,omitempty"`

	// What your backend shows (Authorization: Bearer …) to end sessions, and to
	// disable and erase users. At least 32 characters. Write it as a placeholder.
	// Default: none, and no such endpoints
	ServiceKey string `json:"service_key,omitempty"`

	// How WeChat's servers are called.
	WeChat *WeChat `json:"wechat,omitempty"`

	matcher caddyhttp.MatcherSet
	site    *site
}

// App is a mini program.
type App struct {
	// Its appid, as WeChat's console shows it.
	ID string `json:"appid,omitempty"`

	// Its AppSecret. Write it as a placeholder: {env.WX_SECRET}
	Secret string `json:"secret,omitempty"`

	// Base URLs of WeChat's servers for this app: the first is used, the others
	// when it cannot be reached. Default: those of wechat
	API []string `json:"api,omitempty"`

	// What WeChat pushes to this app, in secure mode. Default: nothing
	Push *Push `json:"push,omitempty"`
}

// Push is the message push of an app, as it is set up in WeChat's console: by it
// WeChat tells whose account is gone, and who takes the phone number back.
type Push struct {
	// The Token of 3 to 32 letters and digits. Write it as a placeholder.
	Token string `json:"token,omitempty"`

	// The EncodingAESKey of 43 letters and digits. Write it as a placeholder.
	EncodingAESKey string `json:"encoding_aes_key,omitempty"`
}

// Rule names requests by method and path.
type Rule struct {
	// The methods. Default: GET and HEAD
	Methods []string `json:"methods,omitempty"`

	// The paths: exact ones, or with /* at the end for all below. Case counts.
	Paths []string `json:"paths,omitempty"`
}

// Requirement says who may call some paths. Another caller gets status 403.
type Requirement struct {
	// The paths: exact ones, or with /* at the end for the path and all below it. They
	// match in any case, with and without a slash at the end.
	Paths []string `json:"paths,omitempty"`

	// What of the caller's token is looked at: claims.<name> for what the directory said,
	// appid for the mini program, or phone_within for the time since the last login with
	// a phone number.
	Field string `json:"field,omitempty"`

	// The values of which the caller must have one; of phone_within, the one longest
	// time, such as 15m. Appids may contain placeholders.
	Values []string `json:"values,omitempty"`
}

// Store is the database of users, sessions and keys.
type Store struct {
	// sqlite:<path>, postgres://… or mysql://…. Default: an SQLite file in
	// Caddy's data directory. Without sslmode (PostgreSQL) or tls (MySQL) a
	// connection to a public address is encrypted or refused.
	URL string `json:"url,omitempty"`

	// Whether tables are created and brought up to date. Default: true
	Migrate *bool `json:"migrate,omitempty"`

	// What the name of each table starts with. Default: wx_auth_
	TablePrefix string `json:"table_prefix,omitempty"`
}

// SilentLogin is about logins without a phone code.
type SilentLogin struct {
	// Whether every login needs a phone code.
	Off bool `json:"off,omitempty"`

	// For how long after the last login with a phone code others do without.
	// Default: 90d
	MaxAge caddy.Duration `json:"max_age,omitempty"`
}

// Token is about the tokens (JWTs) that callers are given.
type Token struct {
	// Who issues them (iss). Sites with the same issuer and the same store
	// accept each other's tokens. Default: wx-auth
	Issuer string `json:"issuer,omitempty"`

	// Whom they are for (aud). Default: the issuer
	Audience []string `json:"audience,omitempty"`

	// ES256 (default), EdDSA, RS256 or HS256.
	Algorithm string `json:"algorithm,omitempty"`

	// The key that signs: a private key in PEM or as a JWK, or for HS256 a
	// secret of at least 32 bytes, taken as written. Write it as a placeholder.
	// Default: generated, kept in the store and rotated.
	Key string `json:"key,omitempty"`

	// How long a generated key signs before the next one does. Default: 90d
	Rotate caddy.Duration `json:"rotate,omitempty"`

	// How long a token is good; it never outlives its session. Default: 1h, but
	// never more than the session's idle time
	Lifetime caddy.Duration `json:"lifetime,omitempty"`

	// How far the clocks of those who issue and accept may differ. Default: 10s,
	// but never more than the lifetime
	Leeway *caddy.Duration `json:"leeway,omitempty"`

	// The type in the header (typ): at+jwt (default), or JWT for verifiers that
	// know no other.
	Type string `json:"type,omitempty"`

	// What else is put into the token where everybody who has it can read it:
	// phone_number, and claims that the directory gives.
	Claims []string `json:"claims,omitempty"`
}

// Session is about how long a login lasts, and how many a user may have.
type Session struct {
	// How long a session lasts without a refresh. Default: 30d
	Idle caddy.Duration `json:"idle,omitempty"`

	// The maximum lifetime of a session, however active. Default: 180d
	Lifetime caddy.Duration `json:"lifetime,omitempty"`

	// How long a refresh token may be shown again after its answer was lost.
	// Default: 60s
	Grace caddy.Duration `json:"grace,omitempty"`

	// How many live sessions one user may have in one mini program, from 1 to 1000.
	// A login beyond that ends those that were refreshed longest ago. Default: 20
	Max *int `json:"max,omitempty"`
}

// Identity is a header that tells the upstream something about the caller.
type Identity struct {
	// Its name, without "_" and ".".
	Header string `json:"header,omitempty"`

	// What it holds: id, openid, appid, unionid, phone, session, claims.<name> for what
	// the directory said of the user, or source for the constant "wx_auth", which a
	// backend written for WeChat Cloud Hosting looks for in X-WX-SOURCE.
	Field string `json:"field,omitempty"`
}

// Credential is a place where a token may stand. It is removed from there before
// the upstream. A request with two tokens is refused.
type Credential struct {
	// "cookie": login and refresh set it, logout clears it; requests that may
	// change something, and WebSockets, must come from the same site.
	// "query": a query parameter, of WebSocket requests only.
	// "websocket_protocol": Sec-WebSocket-Protocol: bearer, <token>
	Source string `json:"source,omitempty"`

	// The name of the cookie, which starts with __Host-, or of the parameter.
	// Default: __Host-wx-auth, access_token
	Name string `json:"name,omitempty"`
}

// Rate is a number in a time.
type Rate struct {
	// How many.
	Count int `json:"count,omitempty"`

	// In what time.
	Per caddy.Duration `json:"per,omitempty"`
}

// WeChat is about the calls to WeChat's servers.
type WeChat struct {
	// Base URLs: the first is used, the others when it cannot be reached.
	// Default: https://api.weixin.qq.com
	API []string `json:"api,omitempty"`

	// The name of a WeChat that is not WeChat's own, such as a simulator or a proxy. A
	// store takes each appid from one WeChat only, and knows it by this name. A proxy to
	// WeChat itself is weixin.qq.com. May contain placeholders. Default: weixin.qq.com if
	// all hosts are under it, else the host and port of the first URL
	Realm string `json:"realm,omitempty"`

	// Where the access token comes from: "stable" (default), "classic", which
	// ends the former token at each fetch, or "external", a service of yours.
	AccessToken string `json:"access_token,omitempty"`

	// The URL of that service; {appid} in it stands for the app's id.
	AccessTokenURL string `json:"access_token_url,omitempty"`

	// Whether WeChat is told whose the phone code must be. Without it a phone
	// code of somebody else is accepted. Default: true
	SendOpenID *bool `json:"send_openid,omitempty"`

	// How long WeChat may take to answer one request. Default: 5s
	Timeout caddy.Duration `json:"timeout,omitempty"`
}
