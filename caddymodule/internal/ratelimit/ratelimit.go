// Package ratelimit limits how often one client, or one session, may do something. It
// knows nothing of HTTP, and does not decide who a client is.
package ratelimit

import (
	"sync"
	"time"
)

const (
	// maxKeys bounds the memory of a Limiter: about 8 MiB when full.
	maxKeys = 1 << 16
	// busyWait is the Wait if only attempts that have not ended are in the way. They end soon,
	// whatever their outcome.
	busyWait = time.Second
)

// Rate allows Count attempts in each period Per.
type Rate struct {
	Count int
	Per   time.Duration
}

func (r Rate) each() time.Duration { return r.Per / time.Duration(max(1, r.Count)) }

// Limiter is a per-key rate limiter. It uses the generic cell rate algorithm (GCRA),
// with reservations for attempts that count only if they fail. It is kept over reloads,
// so each call gets the rate. The zero value is ready to use.
type Limiter[K comparable] struct {
	mu   sync.Mutex
	keys map[K]*state
}

// state holds what a Limiter remembers about a key.
type state struct {
	// clear is the time at which the debt is paid. Each attempt that counts moves it by the
	// attempt's share of the period. It is never more than one period ahead.
	clear time.Time
	// reserved is the number of attempts under way.
	reserved int
	good     *successes // may be nil
}

// Refusal means that an attempt must not be made now.
type Refusal struct {
	// Wait is how long to wait, at most the rate's period.
	Wait time.Duration
	// Left is the number of attempts that the key has left. Reset is the time until its
	// debt is paid.
	Left  int
	Reset time.Duration
}

// Take counts an attempt by k, or refuses it.
func (l *Limiter[K]) Take(r Rate, k K, now time.Time) *Refusal {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.state(k, now)
	if refusal := s.check(r, now); refusal != nil {
		return refusal
	}
	s.charge(r, now)
	return nil
}

// Check returns the refusal that an attempt by k would get now. It counts nothing.
func (l *Limiter[K]) Check(r Rate, k K, now time.Time) *Refusal {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, ok := l.keys[k]
	if !ok {
		return nil
	}
	return s.check(r, now)
}

// Reserve lets an attempt begin, or refuses it. The attempt counts until its outcome is
// known, and exactly one of Succeed, Fail and Release must follow. If attempts were
// counted only after they failed, any number could begin before the first failure.
//
// For each success within the last minute, one more attempt may be under way: an
// address that many users share must not be limited by how many of them log in at once.
func (l *Limiter[K]) Reserve(r Rate, k K, now time.Time) *Refusal {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.state(k, now)
	refusal := s.check(r, now)
	if refusal == nil && s.debt(now)+time.Duration(s.reserved+1-s.good.count(now))*r.each() > r.Per {
		refusal = s.refuse(r, min(busyWait, r.Per), now)
	}
	if refusal == nil {
		s.reserved++
	}
	return refusal
}

// Release ends a reserved attempt that does not count.
func (l *Limiter[K]) Release(k K) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.release(k)
}

// Succeed ends a reserved attempt that succeeded, and remembers the success.
func (l *Limiter[K]) Succeed(k K, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.release(k)
	s := l.state(k, now)
	if s.good == nil {
		s.good = new(successes)
	}
	s.good.add(now)
}

// Fail ends a reserved attempt that failed: it becomes debt.
func (l *Limiter[K]) Fail(r Rate, k K, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.release(k)
	l.state(k, now).charge(r, now)
}

func (l *Limiter[K]) release(k K) {
	if s, ok := l.keys[k]; ok && s.reserved > 0 {
		s.reserved--
	}
}

// state returns the state of a key, which it creates if needed.
func (l *Limiter[K]) state(k K, now time.Time) *state {
	if s, ok := l.keys[k]; ok {
		return s
	}
	if len(l.keys) >= maxKeys {
		l.makeRoom(now)
	}
	if l.keys == nil {
		l.keys = make(map[K]*state)
	}
	s := new(state)
	l.keys[k] = s
	return s
}

// makeRoom drops the keys that have nothing to remember. Under a flood from very many
// addresses, it also drops an eighth of the others, so that the next call need not
// sweep again. Keys with attempts under way stay.
func (l *Limiter[K]) makeRoom(now time.Time) {
	for k, s := range l.keys {
		if s.reserved == 0 && !s.clear.After(now) && s.good.count(now) == 0 {
			delete(l.keys, k)
		}
	}
	for k, s := range l.keys {
		if len(l.keys) < maxKeys-maxKeys/8 {
			return
		}
		if s.reserved == 0 {
			delete(l.keys, k)
		}
	}
}

func (s *state) debt(now time.Time) time.Duration { return max(0, s.clear.Sub(now)) }

// charge adds one attempt to the debt, which is never more than one period: a
// client must not have to wait longer than that, whatever others did from its
// address.
func (s *state) charge(r Rate, now time.Time) {
	s.clear = now.Add(min(r.Per, s.debt(now)+r.each()))
}

func (s *state) check(r Rate, now time.Time) *Refusal {
	if wait := min(s.debt(now)+r.each()-r.Per, r.Per); wait > 0 {
		return s.refuse(r, wait, now)
	}
	return nil
}

func (s *state) refuse(r Rate, wait time.Duration, now time.Time) *Refusal {
	reset := min(s.debt(now), r.Per)
	return &Refusal{Wait: wait, Left: max(0, int((r.Per-reset)/r.each())-s.reserved), Reset: reset}
}
