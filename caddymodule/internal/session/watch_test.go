package session

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"
)

// watch watches a connection whose end cancels the returned context.
func watch(r *Revoked, sessionID string, expires time.Time) (_ context.Context, release func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	return ctx, r.Watch(sessionID, expires, ending(cancel)).Release
}

// ending makes a Connection of a function.
type ending func(why error)

func (e ending) End(why error) { e(why) }

// A logout ends all connections of the session. It does not touch those of other
// sessions, nor one that was released before.
func TestRevokedSessionEndsItsConnections(t *testing.T) {
	r := NewRevoked()
	later := start.Add(time.Hour)
	one, release1 := watch(r, number(1), later)
	two, release2 := watch(r, number(1), later)
	three, release3 := watch(r, number(1), later)
	other, release := watch(r, number(2), later)
	release2() // from the middle of the list
	r.Add(number(1), later)
	for _, ctx := range []context.Context{one, three} {
		if !errors.Is(context.Cause(ctx), ErrEnded) {
			t.Errorf("cause %v", context.Cause(ctx))
		}
	}
	if two.Err() != nil {
		t.Errorf("a released one: cause %v", context.Cause(two))
	}
	if other.Err() != nil || r.Watching() != 1 {
		t.Error("another session's connection ended")
	}
	release1()
	release3()
	release3()
	release()
	release()
	if r.Watching() != 0 || len(r.watched.bySession) != 0 {
		t.Error("something is still watched")
	}
}

// A WebSocket that is upgraded just after its session was revoked must not stay open.
func TestConnectionOfAnEndedSessionIsRefused(t *testing.T) {
	r := NewRevoked()
	r.Add(number(1), start.Add(time.Hour))
	ctx, release := watch(r, number(1), start.Add(time.Hour))
	defer release()
	if !errors.Is(context.Cause(ctx), ErrEnded) || r.Watching() != 0 {
		t.Errorf("cause %v, %d watched", context.Cause(ctx), r.Watching())
	}
}

// A connection must not outlive the token under which it was opened, in whatever order
// the tokens expire.
func TestExpiredTokenEndsItsConnection(t *testing.T) {
	r := NewRevoked()
	var ctxs []context.Context
	for i := range 100 { // not in order
		ctx, release := watch(r, number(i), start.Add(time.Duration(i*37%100)*time.Second))
		defer release()
		ctxs = append(ctxs, ctx)
	}
	for sec := range 100 {
		r.Tick(start.Add(time.Duration(sec)*time.Second - time.Millisecond))
		r.Tick(start.Add(time.Duration(sec) * time.Second))
		for i, ctx := range ctxs {
			if over := i*37%100 <= sec; over != (ctx.Err() != nil) {
				t.Fatalf("second %d: the token of second %d is over: %v", sec, i*37%100, !over)
			}
		}
	}
	for _, ctx := range ctxs {
		if !errors.Is(context.Cause(ctx), ErrTokenExpired) {
			t.Errorf("cause %v", context.Cause(ctx))
		}
	}
	if r.Watching() != 0 {
		t.Error("something is still watched")
	}
}

// A connection that calls Release from within End must neither deadlock nor be ended
// twice.
func TestReleaseInsideTheEnd(t *testing.T) {
	r := NewRevoked()
	ends := 0
	var w *Watched
	w = r.Watch(number(1), start, ending(func(error) { ends++; w.Release() }))
	r.Tick(start)
	r.Tick(start)
	if ends != 1 {
		t.Errorf("ended %d times", ends)
	}
}

// Ten thousand open WebSockets must not cost a goroutine or kilobytes of memory each.
func TestWatchedConnectionIsSmall(t *testing.T) {
	const n = 10_000
	r := NewRevoked()
	ids := make([]string, n)
	for i := range ids {
		ids[i] = number(i)
	}
	routines := runtime.NumGoroutine()
	before := heapInUse()
	releases := make([]*Watched, n)
	for i := range releases {
		releases[i] = r.Watch(ids[i], start.Add(time.Hour), ending(func(error) {}))
	}
	each := (heapInUse() - before) / n
	t.Logf("%d bytes each", each)
	if each > 256 {
		t.Errorf("%d bytes each", each)
	}
	if now := runtime.NumGoroutine(); now > routines {
		t.Errorf("%d goroutines more", now-routines)
	}
	for _, release := range releases {
		release.Release()
	}
	if r.Watching() != 0 {
		t.Error("something is still watched")
	}
}

// All ten thousand connections end in the same second.
func BenchmarkTickThatEndsTenThousand(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		r := NewRevoked()
		for i := range 10_000 {
			r.Watch(number(i), start, ending(func(error) {}))
		}
		b.StartTimer()
		r.Tick(start)
	}
}

// One Tick ends nothing while ten thousand connections are open.
func BenchmarkTickIdle(b *testing.B) {
	r := NewRevoked()
	for i := range 10_000 {
		r.Watch(number(i), start.Add(time.Hour), ending(func(error) {}))
	}
	for b.Loop() {
		r.Tick(start)
	}
}

// After Close, no Tick would end a connection when its token expires. So Close ends
// every connection, and later ones end at once.
func TestConnectionsEndWhenNobodyWatchesThem(t *testing.T) {
	r := NewRevoked()
	later := start.Add(time.Hour)
	one, release1 := watch(r, number(1), later)
	two, release2 := watch(r, number(1), later)
	r.Close()
	late, release3 := watch(r, number(2), later)
	for _, ctx := range []context.Context{one, two, late} {
		if !errors.Is(context.Cause(ctx), ErrEnded) {
			t.Errorf("cause %v", context.Cause(ctx))
		}
	}
	release1()
	release2()
	release3()
	r.Add(number(1), later)
	r.Tick(later)
	if r.Watching() != 0 {
		t.Error("something is still watched")
	}
}
