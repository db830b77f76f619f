// Package wechattest is a simulator of WeChat's server API for tests and
// demonstrations, as net/http/httptest is one of a web server. A [Simulator] is an
// [http.Handler] with state. It answers the calls of a phone login
//
//	GET  /sns/jscode2session
//	POST /cgi-bin/stable_token
//	GET  /cgi-bin/token
//	POST /wxa/business/getuserphonenumber
//
// like api.weixin.qq.com, and refuses what WeChat refuses. Codes are valid for five
// minutes, work once, and belong to one app and one user; a login code is not accepted
// as a phone code. Stable tokens are the same for all callers and rotate five minutes
// before their end; a classic token is invalidated by the next call. Secrets, IP
// whitelists and quotas are checked. A chunked request body gets an empty 412.
//
// The simulator is stricter than WeChat where that reveals a mistake of the client: it
// answers 40097 to an unknown or repeated query parameter, and to a member of a JSON
// body that WeChat does not document, because it may be part of a code that was not
// encoded.
//
// One more endpoint exists in companies and not at WeChat, a central token service:
// GET /central/token?appid=… returns the app's stable token in WeChat's form, or with
// &format=bare the token alone.
//
// A test registers apps ([Simulator.AddApp]), simulates the phone ([Simulator.Mint]
// returns the two codes of a tap on the phone button), and lets the client under test
// log in. Then it checks how often WeChat was called ([Simulator.Count]) and whether
// the phone codes, which cost money, were used ([Simulator.PhoneCodes]).
// [Simulator.Inject] makes calls fail, before or after the code is consumed.
// [Simulator.Advance] moves the clock. [Simulator.Push] sends the app's server a
// message, genuine or forged, in the form of the message push in secure mode.
//
// # Control API
//
// A test of a program in another process does the same over HTTP, with JSON bodies.
// Unknown members are refused with 400 and {"error": "…"}.
//
//	POST   /_control/apps        an [App] as JSON; omitted members keep their value → 204
//	POST   /_control/codes       {"appid", "phone", "country", "user"} → [Codes]
//	POST   /_control/faults      a [Fault], "delay" as in "1.5s" → 204
//	DELETE /_control/faults      → 204
//	GET    /_control/counts      → {"jscode2session": {"total": 2, "outcomes": {"ok": 1, "40163": 1}}, …}
//	DELETE /_control/counts      → 204
//	GET    /_control/phonecodes  → [[PhoneCode], …]
//	GET    /_control/secrets     → ["…"], see [Simulator.Secrets]
//	POST   /_control/token       {"appid", "do": "revoke" or "rotate"} → 204
//	POST   /_control/push        a [Push] with {"url", "times"}, sent that many times → [[PushAnswer], …]
//	POST   /_control/clock       {"advance": "5m"} → {"now": "…"}
//	GET    /_control/clock       → {"now": "…"}
//
// In /_control/codes "country" is "86" by default, and "user" is a name for the
// person, by default the number. Without "phone" the answer has only a login code.
//
// The control API requires no credentials: serve a Simulator on a loopback address
// only.
package wechattest
