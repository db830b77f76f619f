package wechat

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"
)

const (
	busy        = -1
	minuteQuota = 45011

	// The operator can reset a daily quota by hand, so the call is tried again every ten
	// minutes.
	dailyQuotaPause  = 10 * time.Minute
	minuteQuotaPause = time.Minute
	// WeChat freezes a secret after too many calls with a wrong one, so such calls pause for a
	// while.
	operatorPause = 45 * time.Second
	busyRetry     = 5 * time.Second
)

// decision is a row of the error table: what an errcode means for one call.
type decision struct {
	kind   Kind
	reason string
	advice string
	renew  []Renew
	retry  time.Duration // RetryAfter
	pause  bool          // the call carries the secret: stop making it for RetryAfter
}

// classify returns what an errcode means for a call.
func classify(call Call, code int) decision {
	session, token, phone := call == CallSession, call == CallToken, call == CallPhone
	secret := session || token
	operator := func(reason, advice string) decision {
		return decision{kind: KindOperator, reason: reason, advice: advice, retry: operatorPause, pause: token}
	}
	// Only a wrong secret or our own address causes these errcodes, so no mini program can
	// provoke them.
	credentials := func(reason, advice string) decision {
		v := operator(reason, advice)
		v.pause = secret
		return v
	}
	loginCode := func(reason string) decision {
		return decision{kind: KindLoginCode, reason: reason, renew: []Renew{RenewCode}}
	}
	phoneCode := func(reason string) decision {
		return decision{kind: KindPhoneCode, reason: reason, renew: []Renew{RenewPhoneCode}}
	}

	switch code {
	case busy:
		return decision{kind: KindBusy, reason: "system busy", retry: busyRetry}
	case 40001:
		if secret {
			return credentials("the secret is wrong", "check the AppSecret of this appid")
		}
		return tokenRefused()
	case 40014, 42001:
		if phone {
			return tokenRefused()
		}
	case 40003:
		if phone {
			return decision{kind: KindMismatch, reason: "the phone code is not this openid's", renew: []Renew{RenewCode, RenewPhoneCode}}
		}
	case 40013:
		v := operator("the appid is wrong, or the code is another app's",
			"check the appid; if it is right, a front end of another mini program sends its codes here")
		if session {
			v.renew = []Renew{RenewCode}
		}
		if phone {
			v.renew = []Renew{RenewPhoneCode}
		}
		return v
	case 40029:
		if session {
			return loginCode("the login code is bad or expired")
		}
		if phone {
			return phoneCode("the phone code is expired, used, or not a phone code of this app")
		}
	case 40163:
		if session {
			return loginCode("the login code was used before")
		}
		if phone {
			return phoneCode("the phone code was used before")
		}
	case 87007, 87008, 87009:
		if session || phone {
			return loginCode("the session key expired or signed wrongly")
		}
	case 40097, 41001, 41002, 41004, 41008, 43002, 44002, 47001:
		return decision{kind: KindBug, reason: "WeChat calls the request malformed",
			advice: "this is a fault of this software or of something that changes its requests on the way: report it with the rid"}
	case 40125:
		return credentials("the secret is wrong", "check the AppSecret of this appid; it may have been reset")
	case 40243:
		return credentials("the secret is frozen", "unfreeze the AppSecret in the mini program's console")
	case 40164, 61004:
		return credentials("our address is not in the IP whitelist",
			"add this server's address, which is logged with this error, to the IP whitelist in the mini program's console")
	case 89501, 89502, 89503, 89504, 89505:
		return credentials("the mini program's admin must confirm our address",
			"ask the mini program's admin to confirm this server's address")
	case 89506:
		v := credentials("the mini program's admin refused our address twice", "ask the mini program's admin; WeChat refuses this address for 24 hours")
		v.retry = 24 * time.Hour
		return v
	case 89507:
		v := credentials("the mini program's admin refused our address", "ask the mini program's admin; WeChat refuses this address for an hour")
		v.retry = time.Hour
		return v
	case 40226:
		if !token {
			return decision{kind: KindBlocked, reason: "WeChat blocks this user as high-risk"}
		}
	case 40240:
		return operator("WeChat's API signature layer refused the time", "set this server's clock")
	case 40230, 40231, 40232, 40233, 40234, 40235, 40236, 40237, 40238, 40239:
		return operator("WeChat's API signature layer refused the request",
			"this app has API signatures switched on in its console; switch them off or check their keys")
	case 45009:
		return decision{kind: KindQuota, reason: "the daily quota is used up", retry: dailyQuotaPause, pause: token,
			advice: "see the call's quota in the mini program's console; it can be reset there a few times a month"}
	case minuteQuota:
		return decision{kind: KindQuota, reason: "the quota of this minute is used up", retry: minuteQuotaPause, pause: token}
	case 48001, 48004, 50002, 50004, 50007:
		return operator("the app may not use this call, or is banned or frozen",
			"see in the mini program's console whether it is verified, may read phone numbers, and is not under a ban")
	case 61024:
		return operator("the appid is an Open Platform component", "configure the mini program's own appid and secret")
	}
	return decision{kind: KindBadAnswer, reason: "an errcode that this call does not have"}
}

func tokenRefused() decision {
	return decision{kind: KindOperator, reason: "WeChat refuses the access token, even after it was fetched again",
		retry:  operatorPause,
		advice: "something else fetches this app's access token and so ends ours, or the external token is another app's: use access_token stable, or one source for all"}
}

// calledUsed reports whether WeChat uses this errcode for a code that was used before.
func calledUsed(call Call, code int) bool {
	return code == 40163 || call == CallPhone && code == 40029
}

func accessTokenRefused(code int) bool {
	return code == 40001 || code == 40014 || code == 42001
}

// The id appears as "…, rid: 65713974-7970e3f9-1a07ebbf" or, in some calls, as "[
// req_id: QkacMBore-rt6w3 ]".
var ridPattern = regexp.MustCompile(`\brid: ?([0-9a-fA-F]{1,16}(?:-[0-9a-fA-F]{1,16}){1,4})\b|\breq_id: ?([0-9A-Za-z]{4,16}-[0-9A-Za-z]{4,12})\b`)

// businessError makes an error from an errcode. From errmsg it takes only the request's
// id and, if the errcode is about it, our own address.
func businessError(call Call, code int, errmsg string) *Error {
	v := classify(call, code)
	e := &Error{Call: call, Kind: v.kind, Code: code, reason: v.reason, Advice: v.advice,
		Renew: slices.Clone(v.renew), RetryAfter: v.retry}
	if m := ridPattern.FindStringSubmatch(errmsg); m != nil {
		e.RID = m[1] + m[2]
	}
	if code == 40164 || code == 61004 || code >= 89501 && code <= 89507 {
		e.IP = firstAddress(errmsg)
	}
	return e
}

// firstAddress returns the first address in a text such as "invalid ip 14.22.81.196
// ipv6 ::ffff:14.22.81.196, not in whitelist".
func firstAddress(errmsg string) string {
	for _, word := range strings.FieldsFunc(errmsg, func(r rune) bool {
		return !(r == '.' || r == ':' || r >= '0' && r <= '9' || r >= 'a' && r <= 'f' || r >= 'A' && r <= 'F')
	}) {
		if a, err := netip.ParseAddr(strings.Trim(word, ".")); err == nil {
			return a.Unmap().String()
		}
	}
	return ""
}
