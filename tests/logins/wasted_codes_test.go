package logins

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// startPatient starts a gateway with long timeouts, so that a test can hold WeChat's
// answers back.
func startPatient(t *testing.T, w *rig.WeChat) *rig.Caddy {
	t.Helper()
	return rig.StartCaddy(t, rig.WaitingSite("20s"), w.Environ("127.0.0.1:1")...)
}

// abandon sends a login, and hangs up when done returns true.
func abandon(t *testing.T, c *rig.Caddy, codes wechattest.Codes, done func() bool) {
	t.Helper()
	body, err := json.Marshal(map[string]string{"code": codes.Code, "phoneCode": codes.PhoneCode})
	if err != nil {
		t.Fatal(err)
	}
	ctx, hangUp := context.WithCancel(context.Background())
	defer hangUp()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL()+"/auth/wx", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	ended := make(chan error, 1)
	go func() {
		resp, err := c.Client().HTTP.Do(r)
		if err == nil {
			resp.Body.Close()
		}
		ended <- err
	}()
	waitUntil(t, "the login is where it is to be abandoned", done)
	hangUp()
	if err := <-ended; err == nil {
		t.Fatal("the login was answered before its client could hang up")
	}
}

// wantNumber checks whose login a pair is of.
func wantNumber(t testing.TB, p rig.Pair, number string) {
	t.Helper()
	if p.UserInfo.PhoneNumber != "+86"+number {
		t.Errorf("user %+v, want the one with %s", p.UserInfo, number)
	}
}

// A nervous user taps a hundred times with one pair of codes. WeChat gets each code
// once, and all get the same session.
func TestAHundredLoginsWithOnePairAreOne(t *testing.T) {
	t.Parallel()
	w := rig.NewWeChat(t)
	c := startPatient(t, w)
	client, codes := c.Client(), w.Tap(t, "13800138000")
	release := held(t, w, wechattest.Fault{Call: wechattest.PhoneNumber})
	answers := make([]rig.Answer, 100)
	go func() {
		waitFor(func() bool { return w.Count(wechattest.PhoneNumber).Total > 0 })
		time.Sleep(200 * time.Millisecond) // so that most of them arrive
		release()
	}()
	rig.AtOnce(len(answers), func(i int) { answers[i] = client.Login(codes.Code, codes.PhoneCode) })
	first := answers[0].Pair(t)
	for _, a := range answers {
		p := a.Pair(t)
		if p.RefreshToken != first.RefreshToken || *p.UserInfo != *first.UserInfo {
			t.Fatalf("two answers to one login:\n%s\n%s", answers[0].Body, a.Body)
		}
	}
	rig.WantCalls(t, w, 1, 1)
	// Sent again within a minute, the codes lead to the same session.
	again := client.Login(codes.Code, codes.PhoneCode).Pair(t)
	if again.RefreshToken != first.RefreshToken {
		t.Error("a replayed login is another session")
	}
	rig.WantCalls(t, w, 1, 1)
	if list := client.Get("/auth/wx/sessions", again.Token); list.Status != 200 || bytes.Count([]byte(list.Body), []byte(`"id"`)) != 1 {
		t.Errorf("sessions: %s", list.Body)
	}
}

// The connection is lost after WeChat has exchanged the phone code. The client sends
// the same codes again and is logged in.
func TestConnectionLostAfterTheExchange(t *testing.T) {
	for name, early := range map[string]bool{"client repeats while the login goes on": true, "client repeats later": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := rig.NewWeChat(t)
			c := startPatient(t, w)
			client, codes := c.Client(), w.Tap(t, "13800138000")
			release := held(t, w, wechattest.Fault{Call: wechattest.PhoneNumber, Late: true})
			abandon(t, c, codes, w.Exchanged)
			if early {
				time.AfterFunc(300*time.Millisecond, release)
			} else {
				release()
				waitUntil(t, "the abandoned login has opened its session", func() bool { return c.Rows(t, "sessions") == 1 })
			}
			pair := client.Login(codes.Code, codes.PhoneCode).Pair(t)
			wantNumber(t, pair, "13800138000")
			rig.WantCalls(t, w, 1, 1)
			if n := c.Rows(t, "sessions"); n != 1 {
				t.Errorf("%d sessions of one login", n)
			}
			client.Me(pair.Token).Want(t, 200)
		})
	}
}

// WeChat's answer to a phone code is kept, so the client may come back with the same
// phone code and a new login code.
func TestNewLoginCodeWithAnExchangedPhoneCode(t *testing.T) {
	for name, hangUp := range map[string]bool{"the answer got lost": true, "the answer came": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := rig.NewWeChat(t)
			c := startPatient(t, w)
			client, codes := c.Client(), w.Tap(t, "13800138000")
			if hangUp {
				release := held(t, w, wechattest.Fault{Call: wechattest.PhoneNumber, Late: true})
				abandon(t, c, codes, w.Exchanged)
				time.AfterFunc(300*time.Millisecond, release)
			} else {
				client.Login(codes.Code, codes.PhoneCode).Pair(t)
			}
			pair := client.Login(w.Open(t, "13800138000").Code, codes.PhoneCode).Pair(t)
			wantNumber(t, pair, "13800138000")
			rig.WantCalls(t, w, 2, 1)
			if n := c.Rows(t, "users"); n != 1 {
				t.Errorf("%d users", n)
			}
		})
	}
}

// A login code has expired. The phone code beside it, which costs money, must not be
// spent.
func TestBadLoginCodeLeavesThePhoneCodeGood(t *testing.T) {
	t.Parallel()
	w := rig.NewWeChat(t)
	c := startPatient(t, w)
	client, codes := c.Client(), w.Tap(t, "13800138000")
	wantRefusal(t, client.Login("0"+codes.Code[1:]+"x", codes.PhoneCode), 400, "login_code_invalid", loginCode)
	rig.WantCalls(t, w, 1, 0)
	client.Login(codes.Code, codes.PhoneCode).Pair(t)
	rig.WantCalls(t, w, 2, 1)

	// A login code that has opened a session opens no other one. WeChat need not be
	// asked about that.
	later := w.Tap(t, "13800138000")
	wantRefusal(t, client.Login(codes.Code, later.PhoneCode), 400, "login_code_invalid", loginCode)
	rig.WantCalls(t, w, 2, 1)
	client.Login(later.Code, later.PhoneCode).Pair(t)
}

// A thief combines a stolen phone code with a login code of their own.
func TestSomebodyElsesLoginCodeSpendsNothing(t *testing.T) {
	t.Parallel()
	w := rig.NewWeChat(t)
	c := startPatient(t, w)
	client := c.Client()
	owner, thief := w.Tap(t, "13800138000"), w.Tap(t, "13900139000")

	// Before the owner's login, WeChat itself refuses.
	wantRefusal(t, client.Login(thief.Code, owner.PhoneCode), 400, "phone_code_invalid", bothCodes)
	if w.Exchanged() {
		t.Error("the owner's phone code was spent for somebody else")
	}
	rig.WantCalls(t, w, 1, 1)
	if n := c.Rows(t, "sessions"); n != 0 {
		t.Errorf("%d sessions", n)
	}

	// This does not harm the owner.
	pair := client.Login(owner.Code, owner.PhoneCode).Pair(t)
	wantNumber(t, pair, "13800138000")
	rig.WantCalls(t, w, 2, 2)

	// After it, the kept result is for the owner only, and WeChat is not asked for the
	// phone number again.
	again := w.Open(t, "13900139000")
	wantRefusal(t, client.Login(again.Code, owner.PhoneCode), 400, "phone_code_invalid", bothCodes)
	rig.WantCalls(t, w, 3, 2)
	if s, u := c.Rows(t, "sessions"), c.Rows(t, "users"); s != 1 || u != 1 {
		t.Errorf("%d sessions, %d users", s, u)
	}

	// The thief's own phone code still works for the thief.
	if p := client.Login(again.Code, thief.PhoneCode).Pair(t); p.UserInfo.PhoneNumber != "+8613900139000" || p.UserInfo.ID == pair.UserInfo.ID {
		t.Errorf("user %+v", p.UserInfo)
	}
	rig.WantCalls(t, w, 3, 3)
	client.Me(pair.Token).Want(t, 200)
}

// The owner and a thief present the same phone code at the same moment.
func TestOwnerAndThiefTryAtOnce(t *testing.T) {
	t.Parallel()
	w := rig.NewWeChat(t)
	c := startPatient(t, w)
	client := c.Client()
	owner, thief := w.Tap(t, "13800138000"), w.Open(t, "13900139000")
	// The thief's login arrives while the owner's exchange is under way.
	release := held(t, w, wechattest.Fault{Call: wechattest.PhoneNumber, Late: true})
	answers := make([]rig.Answer, 2)
	rig.AtOnce(3, func(i int) {
		switch i {
		case 0:
			answers[0] = client.Login(owner.Code, owner.PhoneCode)
		case 1:
			waitFor(w.Exchanged)
			answers[1] = client.Login(thief.Code, owner.PhoneCode)
		case 2:
			waitFor(func() bool { return w.Count(wechattest.Code2Session).Total == 2 })
			time.Sleep(200 * time.Millisecond) // so that the thief's login gets as far as it can
			release()
		}
	})
	wantNumber(t, answers[0].Pair(t), "13800138000")
	wantRefusal(t, answers[1], 400, "phone_code_invalid", bothCodes)
}

// The store fails after WeChat has exchanged the phone code. The client is asked to
// wait, and the same codes work later.
func TestStoreGoneAfterTheExchange(t *testing.T) {
	t.Parallel()
	w := rig.NewWeChat(t)
	c := startPatient(t, w)
	client := c.Client()
	// Another user's token must go on working meanwhile.
	other := w.Tap(t, "13700137000")
	good := client.Login(other.Code, other.PhoneCode).Pair(t)
	w.ResetCounts()

	codes := w.Tap(t, "13800138000")
	release := held(t, w, wechattest.Fault{Call: wechattest.PhoneNumber, Late: true})
	answer := make(chan rig.Answer, 1)
	go func() { answer <- client.Login(codes.Code, codes.PhoneCode) }()
	waitUntil(t, "the phone code is exchanged", func() bool { return w.Count(wechattest.PhoneNumber).Total == 1 })
	unlock := c.Lock(t)
	release()
	start := time.Now()
	p := wantRefusal(t, <-answer, 503, "store_unavailable", nothing)
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("the refusal took %s", took)
	}
	if line := c.Line(t, p.RequestID); line["level"] != "error" || line["cause"] == nil {
		t.Errorf("the log's line: %v", line)
	}
	if me := client.Me(good.Token); me.Status != 200 {
		t.Errorf("/me while the store cannot be written: %d %s", me.Status, me.Body)
	}
	for time.Since(start) < 20*time.Second {
		wantRefusal(t, client.Login(codes.Code, codes.PhoneCode), 503, "store_unavailable", nothing)
	}
	unlock()
	pair := client.Login(codes.Code, codes.PhoneCode).Pair(t)
	wantNumber(t, pair, "13800138000")
	rig.WantCalls(t, w, 1, 1)
	if n := c.Rows(t, "sessions"); n != 2 {
		t.Errorf("%d sessions, want the other's and this one", n)
	}
}

// The process is killed after both answers of WeChat were stored. After the restart the
// same codes work.
func TestKilledAfterTheExchange(t *testing.T) {
	t.Parallel()
	w := rig.NewWeChat(t)
	c := startPatient(t, w)
	db := c.OpenStore(t)
	defer db.Close()
	for i := range 4 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			w.ResetCounts()
			var before, kept int
			if err := db.QueryRow("SELECT COUNT(*) FROM wx_auth_kept_steps").Scan(&before); err != nil {
				t.Fatal(err)
			}
			codes := w.Tap(t, fmt.Sprintf("1380013800%d", i))
			gone := make(chan struct{})
			go func() {
				defer close(gone)
				c.Client().Login(codes.Code, codes.PhoneCode)
			}()
			// Both steps are stored. The session may be stored too, or not; the outcome must
			// be the same.
			for deadline := time.Now().Add(10 * time.Second); kept < before+2 && time.Now().Before(deadline); {
				if err := db.QueryRow("SELECT COUNT(*) FROM wx_auth_kept_steps").Scan(&kept); err != nil {
					t.Fatal(err)
				}
			}
			c.Kill9()
			<-gone
			if kept < before+2 || w.PhoneOK() != 1 {
				t.Fatalf("%d steps kept, before %d; %v", kept, before, w.Counts())
			}
			c.Restart()
			pair := c.Client().Login(codes.Code, codes.PhoneCode).Pair(t)
			if pair.UserInfo.PurePhoneNumber != fmt.Sprintf("1380013800%d", i) {
				t.Errorf("user %+v", pair.UserInfo)
			}
			rig.WantCalls(t, w, 1, 1)
		})
	}
}

// One window remains: from the moment when WeChat takes the code until its answer is
// committed to our store, which is a round trip and one fsync. After a crash in it, the
// client is asked to renew the phone code, and the login code is still good.
func TestKilledBeforeTheAnswerIsStored(t *testing.T) {
	t.Parallel()
	w := rig.NewWeChat(t)
	c := startPatient(t, w)
	codes := w.Tap(t, "13800138000")
	held(t, w, wechattest.Fault{Call: wechattest.PhoneNumber, Late: true})
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		c.Client().Login(codes.Code, codes.PhoneCode)
	}()
	waitUntil(t, "WeChat has taken the phone code", w.Exchanged)
	c.Kill9()
	<-gone
	c.Restart()
	wantRefusal(t, c.Client().Login(codes.Code, codes.PhoneCode), 400, "phone_code_invalid", phoneCode)
	c.Client().Login(codes.Code, w.Tap(t, "13800138000").PhoneCode).Pair(t)
	rig.WantCalls(t, w, 1, 3)
}
