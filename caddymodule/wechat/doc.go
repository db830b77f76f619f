// Package wechat is a client for the part of WeChat's server API that a mini
// program's phone login needs: jscode2session, the access token, and
// getuserphonenumber.
//
// A [Client] is settings and is cheap to build. What must outlive it, the
// connections and the access tokens, is in a [Transport] and a [TokenSource],
// which any number of clients may share. Credentials come with each call.
//
// Every failure that WeChat or the way to it causes is an *[Error]: what
// happened ([Kind]), which codes the mini program must fetch anew
// ([Error.Renew]), and what the operator should do ([Error.Advice]).
// No error holds a secret, a code, a token or a URL with one in it.
//
// # One-time codes
//
// A login code and a phone code work once, and a phone code is paid for. So:
//
//   - Another API host is tried only as long as no byte of the code has left.
//   - A code that was sent and not answered (the connection broke, the time was
//     up, or what came back was not WeChat's JSON) is sent once more, to the same
//     host. If WeChat then calls it used, the call ends with the first failure,
//     the code in Renew and Unanswered set. If the second try goes unanswered
//     too, Unanswered is set and Renew is empty: the code may still be good, and
//     to show it again costs nothing, while a new phone code costs money.
//   - A code that was answered is not sent again, but for errcode -1 (busy, twice)
//     and for a refused access token (once, with a new one).
//   - net/http never repeats a request on its own; see [Transport].
//
// The codes and their meaning:
// https://developers.weixin.qq.com/miniprogram/dev/server/
package wechat
