package wechat

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// ask makes one of the three calls.
func ask(c *Client, call Call) error {
	var err error
	switch call {
	case CallSession:
		_, err = c.Code2Session(context.Background(), testApp, loginCode)
	case CallToken:
		err = c.WarmToken(context.Background(), testApp)
	case CallPhone:
		_, err = c.PhoneNumber(context.Background(), testApp, phoneCode, testOpenID)
	}
	return err
}

func pathOf(call Call) string {
	return map[Call]string{CallSession: sessionPath, CallToken: stablePath, CallPhone: phonePath}[call]
}

// TestErrcodesHaveTheirKindAndRenewal answers each documented errcode to each call. It
// checks the kind, the codes to renew, the pause, the advice, and how often the call is
// made.
func TestErrcodesHaveTheirKindAndRenewal(t *testing.T) {
	s, k, p := []Call{CallSession}, []Call{CallToken}, []Call{CallPhone}
	all, coded, secret := []Call{CallSession, CallToken, CallPhone}, []Call{CallSession, CallPhone}, []Call{CallSession, CallToken}
	code, phone := []Renew{RenewCode}, []Renew{RenewPhoneCode}
	tests := []struct {
		codes   []int
		calls   []Call
		kind    Kind
		renew   []Renew
		retry   time.Duration
		advised bool
		sent    int // number of requests
	}{
		{[]int{-1}, all, KindBusy, nil, 5 * time.Second, false, 3},
		{[]int{40001}, secret, KindOperator, nil, 45 * time.Second, true, 1},
		{[]int{40001, 40014, 42001}, p, KindOperator, nil, 45 * time.Second, true, 2},
		{[]int{40003}, p, KindMismatch, []Renew{RenewCode, RenewPhoneCode}, 0, false, 1},
		{[]int{40013}, s, KindOperator, code, 45 * time.Second, true, 1},
		{[]int{40013}, k, KindOperator, nil, 45 * time.Second, true, 1},
		{[]int{40013}, p, KindOperator, phone, 45 * time.Second, true, 1},
		{[]int{40029, 40163}, s, KindLoginCode, code, 0, false, 1},
		{[]int{40029, 40163}, p, KindPhoneCode, phone, 0, false, 1},
		{[]int{87007, 87008, 87009}, coded, KindLoginCode, code, 0, false, 1},
		{[]int{40097, 41001, 41002, 41004, 41008, 43002, 44002, 47001}, all, KindBug, nil, 0, true, 1},
		{[]int{40125, 40243, 40164, 61004, 89501, 89502, 89503, 89504, 89505}, all, KindOperator, nil, 45 * time.Second, true, 1},
		{[]int{89506}, all, KindOperator, nil, 24 * time.Hour, true, 1},
		{[]int{89507}, all, KindOperator, nil, time.Hour, true, 1},
		{[]int{40226}, coded, KindBlocked, nil, 0, false, 1},
		{[]int{40230, 40231, 40232, 40233, 40234, 40235, 40236, 40237, 40238, 40239, 40240}, all, KindOperator, nil, 45 * time.Second, true, 1},
		{[]int{45009}, all, KindQuota, nil, 10 * time.Minute, true, 1},
		{[]int{45011}, all, KindQuota, nil, time.Minute, false, 1},
		{[]int{48001, 48004, 50002, 50004, 50007, 61024}, all, KindOperator, nil, 45 * time.Second, true, 1},
		{[]int{12345}, all, KindBadAnswer, nil, 0, false, 1},
		// These errcodes come from calls that do not document them.
		{[]int{40003, 40014, 42001}, s, KindBadAnswer, nil, 0, false, 1},
		{[]int{40003, 40029, 40163, 40226, 87009}, k, KindBadAnswer, nil, 0, false, 1},
	}
	a := newAPI(t)
	for _, tt := range tests {
		for _, call := range tt.calls {
			for _, code := range tt.codes {
				t.Run(fmt.Sprintf("%s %d", call, code), func(t *testing.T) {
					c := newClient(t, newClock(), a.URL)
					a.on(sessionPath, says(sessionOK))
					a.on(stablePath, a.nextToken)
					a.on(phonePath, says(phoneOK("86")))
					a.on(pathOf(call), says(fails(code)))
					before := a.count(pathOf(call))
					e := failed(t, ask(c, call))
					if e.Call != call || e.Code != code || e.Kind != tt.kind || e.Status != 0 || e.Unanswered || e.Repeated {
						t.Errorf("got %#v", e)
					}
					if !renewIs(e, tt.renew...) || e.RetryAfter != tt.retry || (e.Advice != "") != tt.advised {
						t.Errorf("renew %v, retry after %v, advice %q", e.Renew, e.RetryAfter, e.Advice)
					}
					if e.RID != "65713974-7970e3f9-1a07ebbf" || !strings.Contains(e.Error(), e.RID) {
						t.Errorf("the request's id is lost: %v", e)
					}
					if n := a.count(pathOf(call)) - before; n != tt.sent {
						t.Errorf("asked %d times, want %d", n, tt.sent)
					}
				})
			}
		}
	}
}

// TestErrcodeMayBeAString answers an errcode in quotes, as some of WeChat's services
// do.
func TestErrcodeMayBeAString(t *testing.T) {
	a := newAPI(t)
	c := newClient(t, newClock(), a.URL)
	a.on(sessionPath, says(string(vectors(t)["component_jscode2session_err_doc_STRING_ERRCODE"])))
	if e := failed(t, ask(c, CallSession)); e.Code != 40029 || e.Kind != KindLoginCode {
		t.Errorf("got %v", e)
	}
	a.on(sessionPath, says(`{"errcode":"0","openid":"`+testOpenID+`"}`))
	if err := ask(c, CallSession); err != nil {
		t.Errorf(`errcode "0": %v`, err)
	}
}

// TestObservedErrorBodies parses errors that developers have received from WeChat, with
// the request ids in all their spellings.
func TestObservedErrorBodies(t *testing.T) {
	tests := []struct {
		name string
		call Call
		code int
		kind Kind
		rid  string
	}{
		{"err_40001_observed", CallToken, 40001, KindOperator, "697832c4-31bfe4c2-64edb600"},
		{"err_40013_observed", CallToken, 40013, KindOperator, "655d878c-2e41a3f4-65f9b9ba"},
		{"err_40029_sns_observed", CallSession, 40029, KindLoginCode, "652d44d0-1d0af18b-5b069232"},
		{"err_40029_phone_observed", CallPhone, 40029, KindPhoneCode, "65713974-7970e3f9-1a07ebbf"},
		{"err_40163_observed", CallSession, 40163, KindLoginCode, "6166f719-6cb5d09c-633ab469"},
		{"err_40164_observed", CallSession, 40164, KindOperator, "66222748-63805354-3e7bbd7f"},
		{"err_40234_observed", CallPhone, 40234, KindOperator, "69af74a4-39bbb3e9-06b4d7c0"},
		{"err_41001_observed", CallPhone, 41001, KindBug, "65155280-47a57467-7544ff55"},
		{"err_41002_observed", CallSession, 41002, KindBug, "608d5716-7afad565-4251e5bc"},
		{"err_41004_observed", CallSession, 41004, KindBug, "qkacgByWf-jJsoNA"},
		{"err_41008_observed", CallSession, 41008, KindBug, "QkacMBore-rt6w3"},
		{"err_45009_observed", CallToken, 45009, KindQuota, "65700f9e-2bfa866c-096e8bff"},
		{"err_47001_observed", CallPhone, 47001, KindBug, "640161eb-7cb2ea9e-371e808c"},
		{"err_48001_doc", CallPhone, 48001, KindOperator, ""},
		{"err_61024_observed", CallToken, 61024, KindOperator, "61ef5ea0-6948b455-30d85954"},
		{"token_err", CallToken, 40013, KindOperator, ""},
	}
	v, a := vectors(t), newAPI(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newClient(t, newClock(), a.URL)
			a.on(stablePath, a.nextToken)
			a.on(pathOf(tt.call), says(string(v[tt.name])))
			e := failed(t, ask(c, tt.call))
			if e.Code != tt.code || e.Kind != tt.kind || e.RID != tt.rid {
				t.Errorf("got %v, rid %q", e, e.RID)
			}
		})
	}
}

// TestOurAddressIsInNoString answers an error that contains our public address: the
// field IP has it, and no printed error does.
func TestOurAddressIsInNoString(t *testing.T) {
	a := newAPI(t)
	c := newClient(t, newClock(), a.URL)
	a.on(sessionPath, says(string(vectors(t)["err_40164_observed"])))
	e := failed(t, ask(c, CallSession))
	if e.IP != "14.22.81.196" {
		t.Errorf("IP = %q", e.IP)
	}
	for _, s := range []string{fmt.Sprint(e), fmt.Sprintf("%+v", e), fmt.Sprintf("%#v", e), e.Advice} {
		if strings.Contains(s, "14.22") {
			t.Errorf("%q shows the address", s)
		}
	}
	// The errmsg of another code may contain an address too, which is not ours.
	a.on(phonePath, says(`{"errcode":40029,"errmsg":"invalid code from 10.1.2.3"}`))
	if e := failed(t, ask(c, CallPhone)); e.IP != "" {
		t.Errorf("IP = %q with 40029", e.IP)
	}
	for errmsg, want := range map[string]string{
		"access clientip is not registered requestIP: 1.2.3.4, hint": "1.2.3.4",
		"invalid ip 2408:4003:1::5, not in whitelist":                "2408:4003:1::5",
		"not in whitelist": "",
	} {
		if got := firstAddress(errmsg); got != want {
			t.Errorf("%q: %q, want %q", errmsg, got, want)
		}
	}
}

// TestKindSaysWhoseFaultItIs checks that each kind is the fault of the client, the
// operator, or WeChat, or of none of them.
func TestKindSaysWhoseFaultItIs(t *testing.T) {
	for k := KindLoginCode; k <= KindCanceled; k++ {
		n := 0
		for _, is := range []bool{k.Client(), k.Operator(), k.WeChat()} {
			if is {
				n++
			}
		}
		want := 1
		if k == KindQuota || k == KindBug || k == KindCanceled {
			want = 0
		}
		if n != want || strings.HasPrefix(k.String(), "kind ") {
			t.Errorf("%v is the fault of %d", k, n)
		}
	}
	if Kind(99).String() != "kind 99" || Kind(0).String() != "kind 0" {
		t.Error("an unknown kind has no name")
	}
}

// TestAnswersInEveryShape parses documented and observed answers: with a byte-order
// mark, control bytes, and numbers as strings.
func TestAnswersInEveryShape(t *testing.T) {
	a := newAPI(t)
	v := vectors(t)
	c := newClient(t, newClock(), a.URL)
	for name, body := range map[string]string{
		"documented":      string(v["jscode2session_ok_doc"]),
		"observed":        string(v["jscode2session_ok_observed"]),
		"old":             string(v["jscode2session_old_observed"]),
		"byte-order mark": "\xef\xbb\xbf" + sessionOK,
		"control bytes":   "{\"openid\":\"" + testOpenID + "\",\"x\":\"a\x01\x1f\x7fb\"}\r\n\x00",
	} {
		a.on(sessionPath, says(body))
		if s, err := c.Code2Session(context.Background(), testApp, loginCode); err != nil || s.OpenID == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	a.on(sessionPath, says(`{"openid":"o1","unionid":"u1"}`))
	if s, err := c.Code2Session(context.Background(), testApp, loginCode); err != nil || s != (Session{"o1", "u1"}) {
		t.Errorf("got %v %v", s, err)
	}

	for name, country := range map[string]string{"string": `"86"`, "number": `86`} {
		a.on(phonePath, says(strings.Replace(phoneOK("86"), `"86"`, country, 1)))
		n, err := c.PhoneNumber(context.Background(), testApp, phoneCode, testOpenID)
		if err != nil || n != (PhoneNumber{"13580006666", "13580006666", "86", time.Unix(start.Unix(), 0)}) {
			t.Errorf("countryCode as a %s: %v %v", name, n, err)
		}
	}
	a.on(phonePath, says(strings.Replace(phoneOK("852"), `"phoneNumber":"1358`, `"phoneNumber":"+8521358`, 1)))
	if n, err := c.PhoneNumber(context.Background(), testApp, phoneCode, testOpenID); err != nil || n.CountryCode != "852" {
		t.Errorf("Hong Kong: %v %v", n, err)
	}
}

// TestDoneButUselessRenewsTheSpentCode answers success without usable data. The code is spent
// then, so the client must fetch a new one, and the call is not repeated.
func TestDoneButUselessRenewsTheSpentCode(t *testing.T) {
	a := newAPI(t)
	c := newClient(t, newClock(), a.URL)
	at := func(d time.Duration) string {
		return strings.Replace(phoneOK("86"), fmt.Sprint(start.Unix()), fmt.Sprint(start.Add(d).Unix()), 1)
	}
	for name, body := range map[string]string{
		"no openid": `{"session_key":"x"}`, "openid not a string": `{"openid":5}`, "openid too long": `{"openid":"` + strings.Repeat("o", 129) + `"}`,
		"openid with a newline": `{"openid":"a\nb"}`, "unionid with a space": `{"openid":"o1","unionid":"a b"}`,
	} {
		a.on(sessionPath, says(body))
		before := a.count(sessionPath)
		if e := failed(t, ask(c, CallSession)); e.Kind != KindBadAnswer || !renewIs(e, RenewCode) || e.Unanswered || e.Host == "" {
			t.Errorf("%s: %#v", name, e)
		}
		if n := a.count(sessionPath) - before; n != 1 {
			t.Errorf("%s: the answered code was sent %d times", name, n)
		}
	}
	for name, body := range map[string]string{
		"no phone_info": `{"errcode":0}`, "no watermark": `{"phone_info":{"purePhoneNumber":"1","countryCode":"86"}}`,
		"another app's": strings.Replace(phoneOK("86"), testApp.ID, "wxffffffffffffffff", 1),
		"no number":     strings.Replace(phoneOK("86"), `"purePhoneNumber":"13580006666"`, `"purePhoneNumber":""`, 1),
		"no country":    phoneOK(""), "country not a number": strings.Replace(phoneOK("86"), `"86"`, `[86]`, 1),
		"too old": at(-10*time.Minute - time.Second), "from the future": at(10*time.Minute + time.Second),
	} {
		a.on(phonePath, says(body))
		if e := failed(t, ask(c, CallPhone)); e.Kind != KindBadAnswer || !renewIs(e, RenewPhoneCode) || e.Unanswered {
			t.Errorf("%s: %#v", name, e)
		}
	}
	for _, d := range []time.Duration{-10 * time.Minute, 10 * time.Minute} {
		a.on(phonePath, says(at(d)))
		if err := ask(c, CallPhone); err != nil {
			t.Errorf("%v from our time: %v", d, err)
		}
	}
}

// TestOpenIDIsSentUnlessSwitchedOff sends the openid with the phone code, so that
// WeChat refuses a phone code of another user.
func TestOpenIDIsSentUnlessSwitchedOff(t *testing.T) {
	a := newAPI(t)
	var body string
	a.on(phonePath, func(w http.ResponseWriter, r *http.Request) {
		b := make([]byte, 1024)
		n, _ := r.Body.Read(b)
		body = string(b[:n])
		says(phoneOK("86"))(w, r)
	})
	c := newClient(t, newClock(), a.URL)
	if err := ask(c, CallPhone); err != nil || body != `{"code":"`+phoneCode+`","openid":"`+testOpenID+`"}` {
		t.Errorf("%v: sent %s", err, body)
	}
	c = newClient(t, newClock(), a.URL)
	c.OmitOpenID = true
	if err := ask(c, CallPhone); err != nil || body != `{"code":"`+phoneCode+`"}` {
		t.Errorf("%v: sent %s", err, body)
	}
}
