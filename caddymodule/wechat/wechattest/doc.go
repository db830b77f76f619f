// Package wechattest is a simulator of WeChat's server API for tests and
// demonstrations, as net/http/httptest is one of a web server. A [Simulator] is an
// [http.Handler] that keeps state. It answers the calls of a phone login
//
//	GET  /sns/jscode2session
//	POST /cgi-bin/stable_token
//	GET  /cgi-bin/token
//	POST /wxa/business/getuserphonenumber
//
// as api.weixin.qq.com does, and refuses what WeChat refuses. A code is valid for five
// minutes, works once, and belongs to one app and one user; a login code does not work
// as a phone code. A stable token is the same for all callers and is replaced five
// minutes before its end. A classic token is invalidated by the next one. Secrets, IP
// whitelists and quotas are checked. A chunked request body gets an empty 412. The
// simulator is stricter than WeChat where that reveals a mistake of the client: a query
// parameter that is unknown or occurs twice, or a member of a JSON body that WeChat
// does not document, is refused with 40097, because it may be part of a code that was
// not escaped.
//
// One more endpoint simulates not WeChat but a company's central token service: GET
// /central/token?appid=… returns the app's stable token in WeChat's format, or with
// &format=bare only the token.
//
// A test registers apps ([Simulator.AddApp]), simulates the phone ([Simulator.Mint]
// mints the two codes of a tap on the phone button), lets the client under test log in,
// and then checks how often WeChat was called ([Simulator.Count]) and what became of
// the phone codes, which cost money ([Simulator.PhoneCodes]). [Simulator.Inject] makes
// calls fail on demand, before or after the code was consumed. [Simulator.Advance]
// moves the clock. [Simulator.Push] sends a message to the app's server, genuine or
// forged, as the message push in secure mode does. [Simulator.Save] and
// [Simulator.Load] carry the simulator's state over a restart.
//
// # Control API
//
// A test of a program in another process does the same over HTTP, with JSON bodies.
// Unknown members are refused with 400 and {"error": "…"}.
//
//	POST   /_control/apps        an [App] as JSON; members left out keep their value → 204
//	POST   /_control/codes       {"appid", "phone", "country", "user"} → [Codes]
//	POST   /_control/faults      a [Fault], "delay" as in "1.5s" → 204
//	DELETE /_control/faults      → 204
//	GET    /_control/counts      → {"jscode2session": {"total": 2, "outcomes": {"ok": 1, "40163": 1}}, …}
//	DELETE /_control/counts      → 204
//	GET    /_control/phonecodes  → [[PhoneCode], …]
//	GET    /_control/secrets     → ["…"], see [Simulator.Secrets]
//	POST   /_control/token       {"appid", "do": "revoke" or "rotate"} → 204
//	POST   /_control/push        a [Push], and {"url", "times"}: the same so many times → [[PushAnswer], …]
//	POST   /_control/clock       {"advance": "5m"} → {"now": "…"}
//	GET    /_control/clock       → {"now": "…"}
//
// In /_control/codes, "country" defaults to "86", and "user" is any name for the
// person, by default the number. Without "phone" only a login code is minted.
//
// The control API requires no credentials: serve a Simulator on a loopback address
// only.
package wechattest
