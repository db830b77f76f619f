// Package wechat is a client for the part of WeChat's server API that a mini program's
// phone login needs: jscode2session, the access token, and getuserphonenumber.
//
// A [Client] holds settings and is cheap to build. The parts that must outlive it, the
// connections and the access tokens, are in a [Transport] and a [TokenSource], which
// any number of clients may share. Credentials are passed with each call.
//
// Every failure caused by WeChat or the network is an *[Error]. It states the kind of
// failure ([Kind]), the codes that the mini program must fetch again ([Error.Renew]),
// and the remedy for the operator ([Error.Advice]). No error contains a secret, a code,
// a token, or a URL with one in it.
//
// # One-time codes
//
// A login code and a phone code work once, and a phone code costs money. Therefore:
//
//   - Another API host is tried only if no byte of the code has been sent.
//   - A code that was sent and not answered (the connection broke, the timeout passed,
//     or the answer was not WeChat's JSON) is sent once more, to the same host. If
//     WeChat then calls it used, the call ends with the first failure, the code in
//     Renew and Unanswered set. If the second attempt is not answered either,
//     Unanswered is set and Renew is empty: the code may still be valid. Sending it
//     again costs nothing, while a new phone code costs money.
//   - A code that was answered is not sent again, except after errcode -1 (busy, twice)
//     and after a refused access token (once, with a new token).
//   - net/http never repeats a request by itself; see [Transport].
//
// The codes and their meaning:
// https://developers.weixin.qq.com/miniprogram/dev/server/
package wechat
