package login

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// trial makes calls through a circuit breaker, with a clock that stands still.
type trial struct {
	t     *testing.T
	b     breaker
	now   time.Time
	calls int
}

func newTrial(t *testing.T) *trial {
	return &trial{t: t, b: breaker{call: wechat.CallSession}, now: time.Unix(1_700_000_000, 0)}
}

func (tr *trial) do(who string, result error) error {
	return tr.in("app", who, result)
}

func (tr *trial) in(app, who string, result error) error {
	return tr.b.do(app, who, func() time.Time { return tr.now }, func() (bool, error) { tr.calls++; return true, result })
}

// made reports whether the call was made.
func (tr *trial) made(who string, result error) bool {
	before := tr.calls
	_ = tr.do(who, result)
	return tr.calls > before
}

// open makes calls of that many clients fail until the breaker is open.
func (tr *trial) open(clients int, err error) {
	tr.t.Helper()
	for i := range tripAfter {
		tr.do(fmt.Sprint("client ", i%clients), err)
	}
	if tr.made("somebody", nil) {
		tr.t.Fatal("the breaker is not open")
	}
}

// reset is a failure that a client's input may have caused. down is a failure that no input
// can cause.
var (
	reset = &wechat.Error{Call: wechat.CallSession, Kind: wechat.KindUnreachable}
	down  = &wechat.Error{Call: wechat.CallToken, Kind: wechat.KindUnreachable}
)

// Ten failures in a row open the breaker. Then one login at a time probes, and the
// first success closes it.
func TestBreakerOpensAndProbes(t *testing.T) {
	tr := newTrial(t)
	tr.open(3, reset)
	if tr.calls != tripAfter {
		t.Fatalf("%d calls were made", tr.calls)
	}
	var le *Error
	if err := tr.do("ann", nil); !errors.As(err, &le) || le.Code != problem.WeChatUnavailable || len(le.Renew) != 0 || le.RetryAfter != firstPause {
		t.Fatalf("while it is open: %+v", le)
	}
	tr.now = tr.now.Add(firstPause)
	if !tr.made("ann", reset) {
		t.Fatal("nobody may probe")
	}
	if tr.now = tr.now.Add(firstPause); tr.made("bob", nil) {
		t.Error("the pause did not grow after a probe that failed")
	}
	tr.now = tr.now.Add(firstPause)
	if !tr.made("bob", nil) || !tr.made("ann", nil) || !tr.made("eve", nil) {
		t.Error("it is not closed after a probe that succeeded")
	}
}

// One client sends bad requests without end, and WeChat refuses them. Neither opens a breaker,
// whether clients can be told apart or not.
func TestOneClientOpensNoBreaker(t *testing.T) {
	for name, err := range map[string]*wechat.Error{
		"reset":              reset,
		"timeout":            {Call: wechat.CallSession, Kind: wechat.KindTimeout, Unanswered: true},
		"HTML":               {Call: wechat.CallSession, Kind: wechat.KindBadAnswer},
		"502":                {Call: wechat.CallSession, Kind: wechat.KindBadAnswer, Status: 502},
		"busy":               {Call: wechat.CallSession, Kind: wechat.KindBusy, Code: -1},
		"414 of the edge":    {Call: wechat.CallSession, Kind: wechat.KindRefused, Status: 414},
		"an unknown errcode": {Call: wechat.CallSession, Kind: wechat.KindBadAnswer, Code: 99999},
		"a bad code":         {Call: wechat.CallSession, Kind: wechat.KindLoginCode, Code: 40029},
		"a malformed one":    {Call: wechat.CallSession, Kind: wechat.KindBug, Code: 47001},
		"hung up":            {Call: wechat.CallSession, Kind: wechat.KindCanceled},
	} {
		for _, who := range []string{"eve", ""} {
			tr := newTrial(t)
			for i := range 200 {
				if !tr.made(who, err) {
					t.Errorf("%s, met by %q: not asked after %d", name, who, i)
					break
				}
			}
			if !tr.made("ann", nil) {
				t.Errorf("%s, met by %q: ann is refused", name, who)
			}
		}
	}
	tr := newTrial(t)
	for range 100 { // more failures of one client do not make it several clients
		tr.do("eve", reset)
		tr.do("mallory", reset)
	}
	if !tr.made("ann", nil) {
		t.Error("two clients opened it")
	}
}

// One person has an openid in each of several apps, and causes failures in all of them. That opens
// no breaker: it takes several clients in one app, and then it is open for all apps.
func TestOnePersonOfManyAppsOpensNoBreaker(t *testing.T) {
	tr := newTrial(t)
	tr.b.call = wechat.CallPhone
	failed := &wechat.Error{Call: wechat.CallPhone, Kind: wechat.KindBadAnswer, Status: 502}
	fail := func(app, who string) { _ = tr.in(app, who+" in "+app, failed) }
	for i := range 50 {
		fail(fmt.Sprint("app ", i%5), "eve")
	}
	before := tr.calls
	_ = tr.in("app 9", "ann", failed)
	if tr.calls == before {
		t.Fatal("one person opened it")
	}
	for range perClient {
		fail("app 1", "bob")
		fail("app 1", "carol")
	}
	if before = tr.calls; tr.in("app 9", "dan", nil) == nil || tr.calls > before {
		t.Error("three clients of one app did not open it")
	}
}

// WeChat's answers do not open the breaker, however many clients get them: an answer
// proves that WeChat works.
func TestAnswersOfManyOpenNoBreaker(t *testing.T) {
	for _, err := range []*wechat.Error{
		{Call: wechat.CallSession, Kind: wechat.KindBadAnswer, Code: 99999},
		{Call: wechat.CallSession, Kind: wechat.KindRefused, Status: 403},
	} {
		tr := newTrial(t)
		for i := range 200 {
			if !tr.made(fmt.Sprint("client ", i), err) {
				t.Fatalf("%v: not asked after %d", err, i)
			}
		}
	}
}

// A failure that no input can cause counts whichever client meets it. Otherwise a WeChat that
// is down would be called for ever behind an untrusted proxy.
func TestWhatNoInputCausesCountsForAll(t *testing.T) {
	for _, who := range []string{"", "ann"} {
		tr := newTrial(t)
		tr.b.call = wechat.CallToken
		for range tripAfter {
			tr.do(who, down)
		}
		if tr.made("bob", nil) {
			t.Errorf("met by %q: it is not open", who)
		}
	}
}

// Failures that are far apart are not failures in a row.
func TestOldFailuresAreForgotten(t *testing.T) {
	tr := newTrial(t)
	for i := range 5 * tripAfter {
		tr.do(fmt.Sprint("client ", i), reset)
		tr.now = tr.now.Add(forgetAfter + time.Second)
	}
	if !tr.made("ann", nil) {
		t.Error("it is open")
	}
}

// An attacker is always the first to come when the pause is over, with a request that fails.
// The attacker probes once. After that the others have their turn, for as long as there are
// any.
func TestProbeIsNotTheAttackersAgain(t *testing.T) {
	tr := newTrial(t)
	tr.open(3, reset)
	tr.now = tr.now.Add(firstPause)
	if !tr.made("eve", reset) {
		t.Fatal("eve may not probe")
	}
	pause := 2 * firstPause
	tr.now = tr.now.Add(pause - 10*time.Millisecond)
	if tr.made("ann", nil) {
		t.Fatal("it is not open")
	}
	tr.now = tr.now.Add(10 * time.Millisecond)
	if tr.made("eve", reset) {
		t.Error("eve probes again although ann has come")
	}
	if !tr.made("ann", nil) || !tr.made("eve", nil) {
		t.Error("ann may not probe, or it is not closed")
	}
}

// Two attackers who alternate are not better off: each probes once before Ann does, who
// comes back every second.
func TestProbesOfTwoAttackers(t *testing.T) {
	tr := newTrial(t)
	tr.open(3, reset)
	asked := 0
	for range 60 {
		tr.now = tr.now.Add(time.Second)
		for _, who := range []string{"eve", "mallory"} {
			if tr.made(who, reset) {
				asked++
			}
		}
		if tr.made("ann", nil) {
			if asked > 2 {
				t.Errorf("they probed %d times before ann", asked)
			}
			return
		}
	}
	t.Error("ann never probes")
}

// No other client comes, so the one that has probed may probe again. Otherwise a single user
// would be locked out for ever.
func TestOnlyClientProbesAgain(t *testing.T) {
	tr := newTrial(t)
	tr.open(3, reset)
	for range 5 {
		tr.now = tr.now.Add(longestPause)
		if !tr.made("ann", reset) {
			t.Fatal("ann may not probe")
		}
	}
	tr.now = tr.now.Add(longestPause)
	if !tr.made("ann", nil) || !tr.made("bob", nil) {
		t.Error("it is not closed")
	}
}

// In a long outage every client has probed without success. One of them comes first and probes
// again; the others have their turn after that.
func TestProbesGoInRounds(t *testing.T) {
	tr := newTrial(t)
	tr.open(3, reset)
	for _, who := range []string{"ann", "eve"} {
		tr.now = tr.now.Add(longestPause)
		if !tr.made(who, reset) {
			t.Fatalf("%s may not probe", who)
		}
	}
	tr.now = tr.now.Add(3 * longestPause)
	if !tr.made("eve", reset) {
		t.Fatal("eve may not begin a new round")
	}
	tr.made("ann", nil) // she comes during the pause
	tr.now = tr.now.Add(longestPause - time.Millisecond)
	tr.made("ann", nil)
	tr.now = tr.now.Add(time.Millisecond)
	if tr.made("eve", reset) {
		t.Error("eve probes before ann")
	}
	if !tr.made("ann", nil) {
		t.Error("ann may not probe")
	}
}

// A probe that could not be made, or that panicked, leaves the probe to others.
func TestProbeThatIsNotMade(t *testing.T) {
	tr := newTrial(t)
	tr.open(3, reset)
	tr.now = tr.now.Add(firstPause)
	_ = tr.b.do("app", "ann", func() time.Time { return tr.now }, func() (bool, error) { return false, unavailable(errBusy, busyRetry) })
	func() {
		defer func() { _ = recover() }()
		_ = tr.b.do("app", "bob", func() time.Time { return tr.now }, func() (bool, error) { panic("in a call") })
	}()
	if !tr.made("eve", nil) {
		t.Error("nobody may probe any more")
	}
}
