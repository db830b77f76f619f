package login

import (
	"errors"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// The quota of one app is used up. Its logins pause until it is filled again, and other
// apps go on.
func TestQuotaPausesItsAppOnly(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	clock := func() time.Time { return now }
	for name, used := range map[string]*wechat.Error{
		"of a day":                           {Call: wechat.CallSession, Kind: wechat.KindQuota, Code: 45009, RetryAfter: 10 * time.Minute},
		"of a minute, of the access token's": {Call: wechat.CallToken, Kind: wechat.KindQuota, Code: 45011, RetryAfter: time.Minute},
	} {
		v := newUpstream(wechat.CallSession)
		_ = v.do(t.Context(), "wxA", "ann", clock, func() error { return used })
		called := false
		err := v.do(t.Context(), "wxA", "bob", clock, func() error { called = true; return nil })
		var le *Error
		if !errors.As(err, &le) || called || le.RetryAfter != used.RetryAfter {
			t.Errorf("%s: in the pause: %v, called %v", name, err, called)
		}
		if err := v.do(t.Context(), "wxB", "ann", clock, func() error { return nil }); err != nil {
			t.Errorf("%s: another app: %v", name, err)
		}
		now = now.Add(used.RetryAfter)
		if err := v.do(t.Context(), "wxA", "ann", clock, func() error { return nil }); err != nil {
			t.Errorf("%s: after the pause: %v", name, err)
		}
	}
}

// A limit per minute may be one user's own. However often one user meets it, nobody else
// waits. Once several users have met it, it counts as the app's, and all wait.
func TestMinuteLimitPausesIfSeveralMeetIt(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	v := newUpstream(wechat.CallSession)
	calls := 0
	try := func(who string, result error) error {
		return v.do(t.Context(), "wxA", who, func() time.Time { return now }, func() error { calls++; return result })
	}
	used := &wechat.Error{Call: wechat.CallSession, Kind: wechat.KindQuota, Code: 45011, RetryAfter: time.Minute}
	want := func(n int) {
		t.Helper()
		if calls != n {
			t.Fatalf("%d calls were made, want %d", calls, n)
		}
	}
	for range 100 {
		try("eve", used)
		try("", used) // a client that cannot be told apart from others
	}
	want(200)
	calls = 0
	for _, who := range []string{"ann", "bob", "cid"} {
		try(who, used)
	}
	try("dan", &wechat.Error{Call: wechat.CallSession, Kind: wechat.KindLoginCode}) // not an answer about the limit
	for _, who := range []string{"ann", "bob", "cid", "dan"} {
		try(who, used)
	}
	now = now.Add(time.Minute) // the limit is over
	for _, who := range []string{"ed", "flo", "gus", "hal"} {
		try(who, used)
	}
	want(12)
	try("ivy", used)
	want(13)
	var le *Error
	if err := try("kim", nil); !errors.As(err, &le) || le.Code != problem.WeChatUnavailable || le.RetryAfter != time.Minute {
		t.Errorf("five met the limit: %v", err)
	}
	want(13)
	now = now.Add(time.Minute)
	if err := try("kim", nil); err != nil {
		t.Errorf("after the pause: %v", err)
	}
	try("lee", used)
	try("mia", nil)
	want(16)
}
