package wechattest

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// These are WeChat's content types: text for jscode2session, JSON for the other calls.
const (
	typeText = "text/plain"
	typeJSON = "application/json; encoding=utf-8"
)

const useStable = ", could get access_token by getStableAccessToken, more details at https://mmbizurl.cn/s/JtxxFh33r"

// messages are the beginnings of WeChat's error texts. A hint and the rid follow them.
var messages = map[int]string{
	-1:    "system error",
	40001: "invalid credential, access_token is invalid or not latest" + useStable,
	40002: "invalid grant_type",
	40003: "invalid openid",
	40013: "invalid appid",
	40014: "invalid access_token",
	40029: "invalid code",
	40066: "invalid url",
	40097: "invalid args",
	40125: "invalid appsecret",
	40163: "code been used",
	40226: "code blocked",
	40243: "appsecret has been frozen",
	41001: "access_token missing",
	41002: "appid missing",
	41004: "appsecret missing",
	41008: "missing code",
	42001: "access_token expired",
	43002: "require POST method",
	44002: "empty post data",
	45009: "reach max api daily quota limit" + useStable,
	45011: "api minute-quota reach limit mustslower retry next minute",
	47001: "data format error",
	48001: "api unauthorized",
	48004: "api forbidden for irregularities",
	50002: "user limited",
	61004: "access clientip is not registered",
	61024: "must use api(api_component_token) to get token for component acct",
	89501: "ip is not confirmed by the administrator",
	89503: "this ip needs the confirmation of the administrator",
	89506: "this ip was refused twice by the administrator, retry after 24 hours",
	89507: "this ip was refused by the administrator, retry after 1 hour",
}

// errcode is written as a number, or as a string if the app's settings say so.
type errcode struct {
	value    int
	asString bool
}

func (e errcode) MarshalJSON() ([]byte, error) {
	if e.asString {
		return json.Marshal(strconv.Itoa(e.value))
	}
	return json.Marshal(e.value)
}

// failure is the body of a business error.
type failure struct {
	Errcode errcode `json:"errcode"`
	Errmsg  string  `json:"errmsg"`
}

// fail returns a business error as the answer. app may be nil if the calling app is unknown.
func (s *Simulator) fail(req *request, app *appState, code int) reply {
	msg, ok := messages[code]
	if !ok {
		msg = "error"
	}
	switch {
	case code == 40029 && req.call == PhoneNumber, code == 47001:
		msg += fmt.Sprintf(" hint: [%s]", hex.EncodeToString(randomBytes(7)))
	case code == 40164:
		ip := req.remote.String()
		if app != nil {
			ip = app.sees(req.remote)
		}
		msg = fmt.Sprintf("invalid ip %s ipv6 %s, not in whitelist,", ip, asIPv6(ip))
	case code == 43002 && req.method != "":
		msg = "require " + req.method + " method"
	}
	if req.call == Code2Session && code != 40164 {
		msg += ","
	}
	return s.failWith(req, app, code, msg+" rid: "+s.rid())
}

func (s *Simulator) failWith(req *request, app *appState, code int, msg string) reply {
	asString := app != nil && app.StringErrcode
	return s.good(req, strconv.Itoa(code), failure{errcode{code, asString}, msg})
}

// good returns a value as a JSON answer, with the content type of the call.
func (s *Simulator) good(req *request, outcome string, value any) reply {
	body, err := json.Marshal(value)
	if err != nil {
		panic(fmt.Sprintf("wechattest: encoding an answer: %v", err)) // cannot happen: only strings and numbers are encoded
	}
	answer := reply{contentType: typeJSON, body: body, outcome: outcome}
	if req.call == Code2Session {
		answer.contentType = typeText
	}
	return answer
}

// rid returns a request id as WeChat makes it: the time and two random numbers.
func (s *Simulator) rid() string {
	r := randomBytes(8)
	return fmt.Sprintf("%08x-%08x-%08x", uint32(s.now().Unix()), binary.BigEndian.Uint32(r), binary.BigEndian.Uint32(r[4:]))
}

// asIPv6 returns an IPv4 address in the IPv6 form that WeChat writes beside it.
func asIPv6(ip string) string {
	if strings.Contains(ip, ":") {
		return ip
	}
	return "::ffff:" + ip
}
