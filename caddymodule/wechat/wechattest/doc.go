// Package wechattest is a simulator of WeChat's server API, for tests and
// demonstrations, as net/http/httptest is one of a web server. A [Simulator]
// is an [http.Handler] with a memory. It answers the calls of a phone login
//
//	GET  /sns/jscode2session
//	POST /cgi-bin/stable_token
//	GET  /cgi-bin/token
//	POST /wxa/business/getuserphonenumber
//
// as api.weixin.qq.com does, and refuses what WeChat refuses: codes live five
// minutes, work once, belong to one app and one user, and a login code is no
// phone code; stable tokens are the same for all callers and rotate five
// minutes before their end; a classic token dies of the next call; secrets, IP
// whitelists and quotas are checked; a chunked request body gets an empty 412.
// It is stricter than WeChat where that shows a mistake of the client: a
// query parameter that is unknown or given twice, or a member of a JSON body
// that WeChat does not document, is refused with 40097, because it may be a
// code that was not encoded.
//
// There is one more endpoint that companies have and WeChat has not, a central
// token service: GET /central/token?appid=… answers the app's stable token as
// WeChat would, with &format=bare the token alone.
//
// A test registers apps ([Simulator.AddApp]), plays the phone
// ([Simulator.Mint] makes the two codes of a tap on the phone button), lets the
// client under test log in, and asks how often WeChat was called
// ([Simulator.Count]) and what became of the phone codes that were paid for
// ([Simulator.PhoneCodes]). [Simulator.Inject] makes calls fail on demand,
// before or after the code was consumed. [Simulator.Advance] moves the clock.
// [Simulator.Push] sends the app's server a message, as the message push in
// secure mode does, or one that is forged. [Simulator.Save] and [Simulator.Load]
// carry its memory over a restart.
//
// # Control API
//
// A test of a program in another process does the same over HTTP, with JSON
// bodies. Unknown members are refused with 400 and {"error": "…"}.
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
// In /_control/codes "country" is "86" if left out, "user" is a name for the
// person, by default the number; without "phone" only a login code is made.
//
// The control API asks for no credentials: serve a Simulator on a loopback
// address only.
package wechattest
