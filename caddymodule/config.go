package caddymodule

import (
	"encoding/json"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Handler logs WeChat mini program users in by their phone number. It passes on only
// requests that carry one of its tokens, with the caller's identity in headers.
//
// Ids, secrets, URLs, keys and names may contain the placeholders {env.NAME} and
// {file./absolute/path}. They are replaced once, when the configuration is loaded; an empty
// one is an error. The configuration that Caddy shows keeps the placeholders, so write
// secrets as placeholders.
//
// A request must pass only one wx_auth on its route. If it reaches a second one, the answer
// has status 500.
type Handler struct {
	// The requests that need a token; all, if there is no matcher. The matcher changes
	// neither the endpoints, which are always served, nor the identity headers of clients,
	// which are always removed.
	MatcherRaw caddy.ModuleMap `json:"match,omitempty" caddy:"namespace=http.matchers"`

	// The mini programs that log in here. At least one.
	Apps []App `json:"apps,omitempty"`

	// The path of the endpoints: POST to it is the login. No request to it, or below it,
	// reaches the upstream. Default: /auth/wx
	Endpoints string `json:"endpoints,omitempty"`

	// Requests that need no token. They get no identity either.
	Public []Rule `json:"public,omitempty"`

	// Paths that need no token. A request with a token gets its identity; a request without
	// one is anonymous. A path is exact, or ends in /* for all paths below it.
	Optional []string `json:"optional,omitempty"`

	// Conditions for the callers of some paths. A path that one of them matches needs a token,
	// whatever public, optional and the matcher say. If several match, all must hold. A path
	// that an upstream may read as another one must meet every condition.
	Require []Requirement `json:"require,omitempty"`

	// The database of users, sessions and keys.
	Store *Store `json:"store,omitempty"`

	// The keys that seal personal data at rest and in tokens, each 32 bytes in base64. The
	// first one seals; the others open what they have sealed. Required with postgres and
	// mysql; with sqlite, a key is generated beside the file.
	EncryptionKeys []string `json:"encryption_keys,omitempty"`

	// Your own directory of users instead of the store: a backend, or a table.
	UsersRaw json.RawMessage `json:"users,omitempty" caddy:"namespace=wx_auth.users inline_key=source"`

	// Whether an unknown phone number becomes a user. Default: true
	Register *bool `json:"register,omitempty"`

	// The country calling codes ("86", "852") of phone numbers that may become users. Users
	// that exist log in with any calling code. Default: all
	Countries []string `json:"countries,omitempty"`

	// Logins of known users with the code of wx.login alone.
	SilentLogin *SilentLogin `json:"silent_login,omitempty"`

	// What happens when a known phone number arrives with another WeChat account.
	// "replace" (default) ends the sessions of all other accounts of the user; their
	// openids lose their bindings in this app, and are suspended in other apps until
	// they log in with the number again. "keep" keeps all of them. "deny" refuses the login
	// if the user has, or last had, another account, and otherwise works like "replace".
	OnNewOpenID string `json:"on_new_openid,omitempty"`

	// A login without WeChat, for reviewers and end-to-end tests. Default: none
	TestLogin *TestLogin `json:"test_login,omitempty"`

	// The tokens that callers get.
	Token *Token `json:"token,omitempty"`

	// How long a login lasts.
	Session *Session `json:"session,omitempty"`

	// The headers by which the upstream knows the caller. Default: X-WX-USER-ID,
	// X-WX-OPENID, X-WX-APPID, X-WX-UNIONID and X-WX-PHONE. If any are given, only those are
	// set.
	Identity []Identity `json:"identity,omitempty"`

	// Headers under X-WX- that a trusted proxy may send to the upstream, such as
	// X-WX-Risk-Rank of WeChat's own gateway. Without it all of them are removed. The
	// server needs trusted_proxies.
	PassHeaders []string `json:"pass_headers,omitempty"`

	// Further places of a token besides Authorization: a cookie, a query parameter, a
	// WebSocket sub-protocol. Default: none
	Credentials []Credential `json:"credentials,omitempty"`

	// Whether the token stays in Authorization for the upstream. By default it is removed.
	ForwardToken bool `json:"forward_token,omitempty"`

	// How many of a client's logins WeChat may refuse before the client must wait. It also
	// limits how many of a client's logins may be in progress at once; each success within the
	// last minute allows one more. A client is an address (IPv6: its /64), or the session of a
	// login that carries its refresh token. Off if Caddy sees only private addresses. Default:
	// 30 a minute
	LoginRate *Rate `json:"login_rate,omitempty"`

	// The key with which your backend may end sessions, and disable and erase users
	// (Authorization: Bearer …). At least 32 characters. Write it as a placeholder. Default:
	// none; without it, these endpoints do not exist
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

	// Base URLs of WeChat's servers for this app. The first is used; the others are used if it
	// cannot be reached. Default: those of wechat
	API []string `json:"api,omitempty"`

	// WeChat's message push to this app, in secure mode. Default: none
	Push *Push `json:"push,omitempty"`
}

// Push is the message push of an app, as WeChat's console has it: WeChat reports accounts
// that are closed, and users who withdraw their phone number.
type Push struct {
	// The Token of 3 to 32 letters and digits. Write it as a placeholder.
	Token string `json:"token,omitempty"`

	// The EncodingAESKey of 43 letters and digits. Write it as a placeholder.
	EncodingAESKey string `json:"encoding_aes_key,omitempty"`

	// What happens to a user who withdraws the phone number and has no other openid with a
	// phone login. "detach" (default) removes the number and keeps the user, who gets a new
	// number at the next phone login of the same WeChat account. "erase" erases the user. Two
	// cases always erase: a WeChat account that is closed, and a directory that cannot remove
	// numbers.
	OnPhoneRevoked string `json:"on_phone_revoked,omitempty"`
}

// Rule matches requests by method and path.
type Rule struct {
	// The methods. Default: GET and HEAD
	Methods []string `json:"methods,omitempty"`

	// The paths: exact ones, or with /* at the end for all paths below. Case matters.
	Paths []string `json:"paths,omitempty"`
}

// Requirement is a condition for the callers of some paths. A caller that does not meet it
// gets status 403.
type Requirement struct {
	// The paths: exact ones, or with /* at the end for the path and all below it. They
	// match in any case, with and without a slash at the end.
	Paths []string `json:"paths,omitempty"`

	// What is compared in the caller's token: claims.<name> for a claim of the directory,
	// appid for the mini program, or phone_within for the time since the last login with a
	// phone number.
	Field string `json:"field,omitempty"`

	// The values of which the caller must have one. phone_within takes one value, the maximum
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

	// The prefix of each table's name. Default: wx_auth_
	TablePrefix string `json:"table_prefix,omitempty"`
}

// SilentLogin sets when a login needs no phone code.
type SilentLogin struct {
	// Whether every login needs a phone code.
	Off bool `json:"off,omitempty"`

	// How long after a login with a phone code the user's next logins need none. Default: 90d
	MaxAge caddy.Duration `json:"max_age,omitempty"`
}

// TestLogin is a login without WeChat: POST {"testLogin": "<secret>"} logs the owner of a
// number in. It works only while no WeChat account is bound to that user. The upstream gets
// X-WX-TEST: 1 with its requests.
type TestLogin struct {
	// The secret, of 16 to 256 characters. Write it as a placeholder.
	Secret string `json:"secret,omitempty"`

	// The phone number in E.164: +8613800138000. May contain placeholders.
	Phone string `json:"phone,omitempty"`

	// The last day, by UTC, of the login and its sessions: 2026-12-31
	Until string `json:"until,omitempty"`
}

// Token sets how tokens (JWTs) are made.
type Token struct {
	// The issuer (iss). Sites with the same issuer and the same store accept each other's
	// tokens. Default: wx-auth
	Issuer string `json:"issuer,omitempty"`

	// The audience (aud). Default: the issuer
	Audience []string `json:"audience,omitempty"`

	// ES256 (default), EdDSA, RS256 or HS256.
	Algorithm string `json:"algorithm,omitempty"`

	// The key that signs: a private key in PEM or as a JWK, or for HS256 a
	// secret of at least 32 bytes, taken as written. Write it as a placeholder.
	// Default: generated, kept in the store and rotated.
	Key string `json:"key,omitempty"`

	// How long a generated key signs before the next one replaces it. Default: 90d
	Rotate caddy.Duration `json:"rotate,omitempty"`

	// How long a token is valid; it never outlives its session. Default: 1h, but never more
	// than the session's idle time
	Lifetime caddy.Duration `json:"lifetime,omitempty"`

	// How far the clocks of issuer and verifier may differ. Default: 10s, but never more than
	// the lifetime
	Leeway *caddy.Duration `json:"leeway,omitempty"`

	// The type in the header (typ): at+jwt (default), or JWT for verifiers that accept no
	// other.
	Type string `json:"type,omitempty"`

	// Further claims that anybody with the token can read: phone_number, and claims of the
	// directory.
	Claims []string `json:"claims,omitempty"`
}

// Session sets how long a login lasts, and how many a user may have.
type Session struct {
	// How long a session lasts without a refresh. Default: 30d
	Idle caddy.Duration `json:"idle,omitempty"`

	// The maximum lifetime of a session, however active. Default: 180d
	Lifetime caddy.Duration `json:"lifetime,omitempty"`

	// How long a refresh token can be used again, because the answer was lost. Default: 60s
	Grace caddy.Duration `json:"grace,omitempty"`

	// How many sessions one user may have in one mini program, from 1 to 1000. A login beyond
	// that ends the sessions that were refreshed longest ago. Default: 20
	Max *int `json:"max,omitempty"`
}

// Identity is a header with a part of the caller's identity, for the upstream.
type Identity struct {
	// Its name, without "_" and ".".
	Header string `json:"header,omitempty"`

	// Its content: id, openid, appid, unionid, phone, session, claims.<name> for a claim of
	// the directory, or source for the constant "wx_auth", which a backend written for WeChat
	// Cloud Hosting looks for in X-WX-SOURCE.
	Field string `json:"field,omitempty"`
}

// Credential is a place of a token. The token is removed from there before the request goes
// to the upstream. A request with two tokens is refused.
type Credential struct {
	// "cookie": login and refresh set it, logout clears it. Requests that may change
	// something, and WebSockets, must come from the same site.
	// "query": a query parameter, of WebSocket requests only.
	// "websocket_protocol": Sec-WebSocket-Protocol: bearer, <token>
	Source string `json:"source,omitempty"`

	// The name of the cookie, which starts with __Host-, or of the parameter.
	// Default: __Host-wx-auth, access_token
	Name string `json:"name,omitempty"`
}

// Rate is a number of events per time.
type Rate struct {
	// The number of events.
	Count int `json:"count,omitempty"`

	// The time in which they may happen.
	Per caddy.Duration `json:"per,omitempty"`
}

// WeChat sets how WeChat's servers are called.
type WeChat struct {
	// Base URLs. The first is used; the others are used if it cannot be reached. Default:
	// https://api.weixin.qq.com
	API []string `json:"api,omitempty"`

	// The name of another WeChat, such as a simulator. A store accepts each appid from one
	// WeChat only, and records the WeChat's name. The name of a proxy to WeChat itself is
	// weixin.qq.com. May contain placeholders. Default: weixin.qq.com if all hosts are under
	// it, else the host and port of the first URL
	Realm string `json:"realm,omitempty"`

	// The source of the access token: "stable" (default), "classic", which ends the former
	// token at each fetch, or "external", your own service.
	AccessToken string `json:"access_token,omitempty"`

	// The URL of that service; {appid} in it stands for the app's id.
	AccessTokenURL string `json:"access_token_url,omitempty"`

	// Whether WeChat must check that the phone code belongs to the user who logs in. Without
	// it another user's phone code is accepted. Default: true
	SendOpenID *bool `json:"send_openid,omitempty"`

	// How long WeChat may take to answer one request. Default: 5s
	Timeout caddy.Duration `json:"timeout,omitempty"`
}
