package login

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

func TestValveOpensOnWeChatsFailuresAndProbes(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	var v valve
	calls := 0
	try := func(result error) error {
		return v.do(t.Context(), "wxA", func() time.Time { return now }, func() error { calls++; return result })
	}
	down := &wechat.Error{Kind: wechat.KindUnreachable}
	for range tripAfter {
		try(down)
	}
	if calls != tripAfter {
		t.Fatalf("%d calls were made", calls)
	}
	err := try(nil)
	var le *Error
	if !errors.As(err, &le) || le.Code != WeChatUnavailable || len(le.Renew) != 0 || le.RetryAfter != firstPause {
		t.Fatalf("with the valve open: %+v", le)
	}
	if calls != tripAfter {
		t.Fatal("a call was made with the valve open")
	}
	now = now.Add(firstPause)
	try(down) // the probe fails: twice as long
	if now = now.Add(firstPause); try(nil) == nil {
		t.Error("the pause did not grow after a probe that failed")
	}
	now = now.Add(firstPause)
	if err := try(nil); err != nil {
		t.Fatalf("the probe: %v", err)
	}
	if err := try(nil); err != nil || calls != tripAfter+3 {
		t.Errorf("after a probe that succeeded: %v, %d calls", err, calls)
	}
}

func TestValveStaysShutForTheClientsMistakes(t *testing.T) {
	var v valve
	bad := &wechat.Error{Kind: wechat.KindLoginCode}
	for i := range 100 {
		err := v.do(t.Context(), "wxA", time.Now, func() error { return bad })
		var le *Error
		if !errors.As(err, &le) || le.Code != LoginCodeInvalid {
			t.Fatalf("try %d: %v", i, err)
		}
	}
}

func TestQuotaPausesItsAppOnly(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	clock := func() time.Time { return now }
	var v valve
	used := &wechat.Error{Kind: wechat.KindQuota, Code: 45011, RetryAfter: time.Minute}
	_ = v.do(t.Context(), "wxA", clock, func() error { return used })
	called := false
	err := v.do(t.Context(), "wxA", clock, func() error { called = true; return nil })
	var le *Error
	if !errors.As(err, &le) || called || le.RetryAfter != time.Minute {
		t.Errorf("in the pause: %v, called %v", err, called)
	}
	if err := v.do(t.Context(), "wxB", clock, func() error { return nil }); err != nil {
		t.Errorf("another app: %v", err)
	}
	now = now.Add(time.Minute)
	if err := v.do(t.Context(), "wxA", clock, func() error { return nil }); err != nil {
		t.Errorf("after the pause: %v", err)
	}
}

func TestCallsUnderWayAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var v valve
		hold := make(chan struct{})
		var wg sync.WaitGroup
		for range maxCalls {
			wg.Go(func() { _ = v.do(context.Background(), "wxA", time.Now, func() error { <-hold; return nil }) })
		}
		synctest.Wait()
		start := time.Now()
		err := v.do(context.Background(), "wxA", time.Now, func() error { t.Error("one call too many"); return nil })
		var le *Error
		if !errors.As(err, &le) || le.Code != WeChatUnavailable || !errors.Is(err, errBusy) {
			t.Errorf("beyond the bound: %v", err)
		}
		if waited := time.Since(start); waited != maxQueue {
			t.Errorf("it waited %v, want %v", waited, maxQueue)
		}
		close(hold)
		wg.Wait()
	})
}
