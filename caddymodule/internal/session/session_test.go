package session

import (
	"context"
	"errors"
	"testing"
	"time"
)

// A logout finds the session by any of its refresh tokens. A forged token must not even
// reach the store.
func TestSessionByRefreshToken(t *testing.T) {
	s := opened()
	s.Counter = 5
	m := newMemory(s)
	ss := desk(t, m)
	for counter := range uint64(8) {
		if got, err := ss.ByRefreshToken(t.Context(), at(ss.Keys, s, counter)); err != nil || got != s {
			t.Errorf("counter %d: got %v", counter, err)
		}
	}
	m.reads = 0
	if _, err := ss.ByRefreshToken(t.Context(), at(testKeys(t, secret(9)), s, 5)); !errors.Is(err, ErrRefreshInvalid) || m.reads != 0 {
		t.Errorf("another key: got %v after %d reads", err, m.reads)
	}
	other := ss
	other.Issuer = "other"
	if _, err := other.ByRefreshToken(t.Context(), at(ss.Keys, s, 5)); !errors.Is(err, ErrRefreshInvalid) {
		t.Errorf("another issuer: got %v", err)
	}
	if _, err := ss.End(t.Context(), s.ID, ReasonLogout, start); err != nil {
		t.Fatal(err)
	}
	if got, err := ss.ByRefreshToken(t.Context(), at(ss.Keys, s, 5)); !errors.Is(err, ErrEnded) || got.UserID != "u1" {
		t.Errorf("ended: got %+v, %v", got, err)
	}
	if len(m.feed) != 1 {
		t.Error("looking changed something")
	}
}

// An operator ends all sessions of one user. Other users stay logged in, and a repeated
// call is no error.
func TestEndingAUserEndsTheirSessionsOnly(t *testing.T) {
	a, b, c := opened(), opened(), opened()
	c.UserID = "u2"
	m := newMemory(a, b, c)
	ss := desk(t, m)
	ended, err := ss.EndUser(t.Context(), "u1", ReasonRevoked, start)
	if err != nil || ended.Count != 2 || len(ended.IDs) != 2 {
		t.Fatal(ended, err)
	}
	if !ss.Revoked.Contains(a.ID) || !ss.Revoked.Contains(b.ID) || ss.Revoked.Contains(c.ID) {
		t.Error("the wrong sessions are revoked")
	}
	// Repeating it, for all or for one session, is no error and ends nothing.
	if ended, err := ss.EndUser(t.Context(), "u1", ReasonRevoked, start); err != nil || ended.Count != 0 {
		t.Error(ended, err)
	}
	if ended, err := ss.End(t.Context(), a.ID, ReasonLogout, start); err != nil || ended {
		t.Error(ended, err)
	}
}

// A write fails. The caller must get an error and no token, and the session must not
// count as revoked on this replica alone.
func TestFailedWritesAreNoSuccess(t *testing.T) {
	for _, counter := range []uint64{5, 4, 1} { // advance, too late, stolen
		s := opened()
		s.Counter = 5
		m := newMemory(s)
		ss := desk(t, m)
		ss.Store = readOnly{m}
		got, token, err := ss.Refresh(t.Context(), at(ss.Keys, s, counter), start.Add(time.Hour), welcome)
		if !errors.Is(err, errAway) || errors.Is(err, ErrEnded) || errors.Is(err, ErrReuse) || token != "" || got != (Session{}) {
			t.Errorf("counter %d: got %v", counter, err)
		}
		if _, err := ss.End(t.Context(), s.ID, ReasonLogout, start); !errors.Is(err, errAway) {
			t.Errorf("ending: got %v", err)
		}
		if _, err := ss.EndUser(t.Context(), s.UserID, ReasonRevoked, start); !errors.Is(err, errAway) {
			t.Errorf("ending the user's: got %v", err)
		}
		if ss.Revoked.Len() != 0 {
			t.Error("revoked here and nowhere else")
		}
	}
}

// readOnly is a store whose writes fail.
type readOnly struct{ *memory }

func (readOnly) Advance(context.Context, string, Advance) (bool, error)            { return false, errAway }
func (readOnly) End(context.Context, string, Ending) (bool, error)                 { return false, errAway }
func (readOnly) EndUser(context.Context, string, Ending, func(ids []string)) error { return errAway }
