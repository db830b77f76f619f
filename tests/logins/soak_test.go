package logins

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// soak is one run with random faults, and the record of its results.
type soak struct {
	t      *testing.T
	w      *rig.WeChat
	c      *rig.Caddy
	client *rig.Client
	end    time.Time // no login begins after this

	mu      sync.Mutex
	used    map[string]bool // phone codes that logged a user in
	renewed map[string]bool // phone codes that a client was asked to fetch again
	answers map[string]int  // count by status and code
}

// soakFault returns a random fault. It returns no errcode that pauses calls for a long
// time, because then only a few logins would reach WeChat.
func soakFault(random *rand.Rand) wechattest.Fault {
	f := wechattest.Fault{
		Call: []wechattest.Call{wechattest.Code2Session, wechattest.PhoneNumber, wechattest.PhoneNumber, wechattest.StableToken}[random.IntN(4)],
		Kind: []wechattest.Kind{
			wechattest.Delay, wechattest.Reset, wechattest.Close, wechattest.Status, wechattest.HTML, wechattest.Empty,
			wechattest.Truncated, wechattest.Cut, wechattest.Redirect, wechattest.Dirty, wechattest.Errcode, wechattest.Oversized,
		}[random.IntN(12)],
		Late:  random.IntN(2) == 0,
		Count: 1 + random.IntN(2),
	}
	switch f.Kind {
	case wechattest.Delay:
		f.Delay = time.Duration(random.IntN(4000)) * time.Millisecond // the timeout is two seconds
	case wechattest.Errcode:
		f.Errcode, f.Late = -1, false
	}
	return f
}

// disturb injects faults until the end.
func (s *soak) disturb(random *rand.Rand) {
	for time.Now().Before(s.end) {
		time.Sleep(time.Duration(20+random.IntN(80)) * time.Millisecond)
		switch random.IntN(60) {
		case 0:
			if err := s.w.RevokeTokens(rig.AppID); err != nil {
				s.t.Error(err)
			}
		case 1:
			// Another process writes to the store: for a moment, or for longer than
			// anybody waits.
			db := s.c.OpenStore(s.t)
			if tx, err := db.Begin(); err == nil {
				time.Sleep(time.Duration(100+random.IntN(7900)) * time.Millisecond)
				tx.Rollback()
			}
			db.Close()
		default:
			s.w.ClearFaults() // so that they do not pile up while few calls are made
			if err := s.w.Inject(soakFault(random)); err != nil {
				s.t.Error(err)
			}
		}
	}
	s.w.ClearFaults()
}

// logIn is one user's login, from the tap to the session. It acts as the client's page does,
// but never gives up.
func (s *soak) logIn(random *rand.Rand, number string) {
	codes, err := s.w.Mint(rig.AppID, "", wechattest.Phone{Number: number})
	if err != nil {
		s.t.Error(err)
		return
	}
	user := "+86" + number
	for deadline := time.Now().Add(2 * time.Minute); ; {
		if time.Now().After(deadline) {
			s.t.Errorf("the login of %s never came to its end", user)
			return
		}
		a := s.ask(random, codes)
		if a.Err != nil {
			continue // the client hung up or was cut off: it sends the same again
		}
		var p rig.Problem
		if a.Status != http.StatusOK {
			if err := json.Unmarshal([]byte(a.Body), &p); err != nil || p.Renew == nil {
				s.t.Errorf("%d %s", a.Status, a.Body)
				return
			}
		}
		s.mu.Lock()
		s.answers[strings.TrimSpace(strconv.Itoa(a.Status)+" "+p.Code)]++
		if a.Status == http.StatusOK {
			s.used[codes.PhoneCode] = true
			s.mu.Unlock()
			return
		}
		again := codes.PhoneCode
		if slices.Contains(p.Renew, "phoneCode") {
			s.renewed[codes.PhoneCode] = true
			again, err = s.w.MintPhone(rig.AppID, user, wechattest.Phone{Number: number})
		}
		s.mu.Unlock()
		if err == nil && slices.Contains(p.Renew, "code") {
			codes, err = s.w.MintLogin(rig.AppID, user)
		}
		if err != nil {
			s.t.Error(err)
			return
		}
		codes.PhoneCode = again
		pause, _ := strconv.Atoi(a.Header.Get("Retry-After"))
		time.Sleep(min(time.Duration(pause)*time.Second, 2*time.Second) / 4)
	}
}

// ask sends a login. Now and then the client hangs up before the answer.
func (s *soak) ask(random *rand.Rand, codes wechattest.Codes) rig.Answer {
	body, err := json.Marshal(map[string]string{"code": codes.Code, "phoneCode": codes.PhoneCode})
	if err != nil {
		return rig.Answer{Err: err}
	}
	ctx, hangUp := context.WithCancel(context.Background())
	defer hangUp()
	if random.IntN(6) == 0 {
		t := time.AfterFunc(time.Duration(random.IntN(400))*time.Millisecond, hangUp)
		defer t.Stop()
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.client.Base+"/auth/wx", strings.NewReader(string(body)))
	if err != nil {
		return rig.Answer{Err: err}
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Soak", soakMark(codes.PhoneCode))
	resp, err := s.client.HTTP.Do(r)
	if err != nil {
		return rig.Answer{Err: err}
	}
	return rig.ReadAnswer(resp)
}

// account checks what became of every phone code, because each one was paid for.
func (s *soak) account() {
	var used, lost int
	for _, p := range s.w.PhoneCodes() {
		exchanged := !p.Exchanged.IsZero()
		switch told := s.renewed[p.Code]; {
		case s.used[p.Code] && exchanged && !p.Lost && !told:
			used++
		case told && exchanged && !s.used[p.Code] && (p.Lost || s.lateAnswer(p.Code)):
			lost++
		default:
			s.t.Errorf("phone code of %s: exchanged %v, its answer lost %v; it logged somebody in: %v; a client was told to renew it: %v",
				p.User, exchanged, p.Lost, s.used[p.Code], told)
			for _, id := range s.logins(p.Code) {
				s.t.Logf("%q", s.c.Log.Lines(`"requestId":"`+id))
			}
		}
	}
	s.t.Logf("%d phone codes were paid for: %d used, %d lost between WeChat and us and renewed; answers %v; WeChat %v",
		used+lost, used, lost, s.answers, s.w.Counts())
	if used == 0 || lost == 0 {
		s.t.Error("the faults did not strike")
	}
}

// lateAnswer reports whether an answer that WeChat gave in time reached the gateway too late:
// at the very end of our timeout, or on a machine that was paused for a while.
func (s *soak) lateAnswer(phoneCode string) bool {
	return slices.ContainsFunc(s.logins(phoneCode), func(id string) bool {
		return len(s.c.Log.Lines(`"requestId":"`+id, "wechat getuserphonenumber", "no answer in time (the code was sent and not answered)")) > 0
	})
}

var loginID = regexp.MustCompile(`"login":"([^"]+)"`)

// logins returns the ids of all requests with that phone code, including those whose
// client hung up.
func (s *soak) logins(phoneCode string) (ids []string) {
	for _, line := range s.c.Log.Lines(`"logger":"http.log.access`, `"X-Soak":["`+soakMark(phoneCode)+`"]`) {
		if m := loginID.FindStringSubmatch(line); m != nil {
			ids = append(ids, m[1])
		}
	}
	return ids
}

// soakMark identifies a phone code in the access log, which must not contain the code
// itself.
func soakMark(phoneCode string) string {
	return fmt.Sprintf("%x", sha256.Sum256([]byte(phoneCode)))[:32]
}

// idle waits until no connection to WeChat is left. It returns the number of goroutines
// and files of the process at that moment.
func (s *soak) idle() (routines, files int, profile string) {
	s.client.HTTP.CloseIdleConnections()
	rig.Await(s.t, 90*time.Second, "the connections to WeChat have been closed", func() bool {
		s.w.HangUp()
		routines, profile = goroutines(s.t, s.c)
		return !strings.Contains(profile, "net/http.(*persistConn).readLoop")
	})
	dir := fmt.Sprintf("/proc/%d/fd", s.c.PID())
	fds, _ := os.ReadDir(dir) // the directory exists on Linux only
	for _, fd := range fds {
		// The pool of the store's connections grows as needed, so these are not
		// counted.
		if name, _ := os.Readlink(filepath.Join(dir, fd.Name())); !strings.HasPrefix(name, s.c.StoreFile()) {
			files++
		}
	}
	return routines, files, profile
}

// Random faults strike everywhere for a while. Every phone code that was paid for must
// have logged its user in, or the client must have been asked for a new one.
func TestSoakAccountsForEveryPhoneCode(t *testing.T) {
	t.Parallel()
	const seed, clients = 20260301, 24
	r := rig.NewGatewayWith(t, strings.Replace(rig.WaitingSite("2s"),
		"wx_auth {env", "log\nlog_append login {http.request.uuid}\nwx_auth {env", 1))
	s := &soak{
		t: t, w: r.WeChat, c: r.Caddy, client: r.Client,
		used: make(map[string]bool), renewed: make(map[string]bool), answers: make(map[string]int),
	}
	// Open everything that is opened once before counting.
	rig.AtOnce(64, func(i int) { s.logIn(rand.New(rand.NewPCG(seed, uint64(i))), fmt.Sprintf("130%08d", i)) })
	routines, files, _ := s.idle()

	s.end = time.Now().Add(time.Duration(rig.Rounds(20, 600)) * time.Second)
	rig.AtOnce(clients+1, func(i int) {
		random := rand.New(rand.NewPCG(seed, uint64(1000+i)))
		if i == clients {
			s.disturb(random)
			return
		}
		for n := 0; time.Now().Before(s.end) && !t.Failed(); n++ {
			s.logIn(random, fmt.Sprintf("13%d%08d", 1+i%9, i*1_000_000+n))
			time.Sleep(time.Duration(random.IntN(50)) * time.Millisecond)
		}
	})
	s.account()

	// Connections that are just being closed do not count as left open.
	afterwards, open, profile := s.idle()
	for deadline := time.Now().Add(time.Minute); (afterwards > routines || open > files) && time.Now().Before(deadline); {
		time.Sleep(time.Second)
		afterwards, open, profile = s.idle()
	}
	if afterwards > routines {
		t.Errorf("%d goroutines, %d at first:\n%s", afterwards, routines, profile)
	}
	if open > files {
		t.Errorf("%d open files, %d at first", open, files)
	}
}
