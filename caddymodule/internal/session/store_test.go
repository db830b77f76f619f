package session

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// settings are the defaults of the directive.
var settings = Settings{
	Idle: 30 * 24 * time.Hour, Lifetime: 180 * 24 * time.Hour,
	Grace: time.Minute, TokenLife: time.Hour + 10*time.Second,
}

var errAway = errors.New("database away")

// memory is a Store with the atomicity of a database. Its feed can hold commits back,
// and it has a clock of its own.
type memory struct {
	mu         sync.Mutex
	sessions   map[string]Session
	feed       []feedRow
	seq        int64
	clock      func() time.Time // the database's clock
	fail       error            // returned by every call
	reads      int
	advances   int
	extensions int
	polls      []poll
}

type feedRow struct {
	Revocation
	written   time.Time
	committed bool
}

type poll struct {
	after  int64
	window time.Duration
}

func newMemory(ss ...Session) *memory {
	m := &memory{sessions: make(map[string]Session), clock: func() time.Time { return start }}
	for _, s := range ss {
		m.sessions[s.ID] = s
	}
	return m
}

func (m *memory) Session(_ context.Context, id string) (Session, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reads++
	if m.fail != nil {
		return Session{}, m.fail
	}
	s, ok := m.sessions[id]
	if !ok {
		return Session{}, ErrNotFound
	}
	return s, nil
}

func (m *memory) Advance(_ context.Context, id string, a Advance) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return false, m.fail
	}
	s, ok := m.sessions[id]
	if !ok || s.Counter != a.From || !s.EndedAt.IsZero() {
		return false, nil
	}
	m.advances++
	s.Counter, s.AdvancedAt, s.RefreshedAt, s.ExpiresAt, s.TokensUntil = a.To, a.Now, a.Now, a.Expires, a.TokensUntil
	s.Audience = cmp.Or(s.Audience, a.Audience)
	m.sessions[id] = s
	return true, nil
}

func (m *memory) Extend(_ context.Context, id string, tokensUntil time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.sessions[id]
	if m.fail == nil && !s.TokensUntil.IsZero() && s.TokensUntil.Before(tokensUntil) {
		m.extensions++
		s.TokensUntil = tokensUntil
		m.sessions[id] = s
	}
	return m.fail
}

func (m *memory) End(_ context.Context, id string, e Ending) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return false, m.fail
	}
	return m.end(id, e), nil
}

func (m *memory) end(id string, e Ending) bool {
	s, ok := m.sessions[id]
	if !ok || !s.EndedAt.IsZero() {
		return false
	}
	s.EndedAt, s.EndReason = e.Now, e.Reason
	m.sessions[id] = s
	if s.TokensUntil.IsZero() || !s.TokensUntil.Before(e.Now) {
		m.write(id, e.Until, true)
	}
	return true
}

func (m *memory) write(id string, until time.Time, committed bool) int {
	m.seq++
	m.feed = append(m.feed, feedRow{Revocation{m.seq, id, until}, m.clock(), committed})
	return len(m.feed) - 1
}

func (m *memory) EndUser(_ context.Context, userID string, e Ending, each func([]string)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	for id, s := range m.sessions {
		if s.UserID == userID && m.end(id, e) {
			each([]string{id})
		}
	}
	return nil
}

func (m *memory) EndSurplus(context.Context, Session, int, Ending, func([]string)) error { return nil }

func (m *memory) UserSessions(_ context.Context, userID string, now time.Time) ([]Session, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var ss []Session
	for _, s := range m.sessions {
		if s.UserID == userID && s.EndedAt.IsZero() && s.ExpiresAt.After(now) {
			ss = append(ss, s)
		}
	}
	slices.SortFunc(ss, func(a, b Session) int { return b.CreatedAt.Compare(a.CreatedAt) })
	return ss, m.fail
}

func (m *memory) Revocations(_ context.Context, after int64, window time.Duration) ([]Revocation, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.polls = append(m.polls, poll{after, window})
	if m.fail != nil {
		return nil, m.fail
	}
	var rs []Revocation
	for _, r := range m.feed {
		if r.committed && (r.Seq > after || m.clock().Sub(r.written) < window) {
			rs = append(rs, r.Revocation)
		}
	}
	return rs, nil
}

func secret(b byte) []byte { return slices.Repeat([]byte{b}, 32) }

func testKeys(t testing.TB, secrets ...[]byte) Keys {
	t.Helper()
	if len(secrets) == 0 {
		secrets = [][]byte{secret(1)}
	}
	ks, err := NewKeys(secrets...)
	if err != nil {
		t.Fatal(err)
	}
	return ks
}

// opened returns a session as a login at the time start leaves it.
func opened() Session {
	return New(Session{UserID: "u1", Issuer: "wx-auth", AppID: "wxapp", OpenID: "o1"}, settings, start)
}

// desk returns a replica that uses the store.
func desk(t testing.TB, m *memory) Sessions {
	return Sessions{
		Store: m, Keys: testKeys(t), Settings: settings,
		Issuer: "wx-auth", Apps: []string{"wxother", "wxapp"}, Revoked: NewRevoked(),
	}
}

func welcome(context.Context, Session) error { return nil }

// at returns the refresh token of the session with the given counter.
func at(k Keys, s Session, counter uint64) string {
	s.Counter = counter
	return k.RefreshToken(s)
}

// Together returns ctx: this store reads nothing together.
func (m *memory) Together(ctx context.Context) context.Context { return ctx }
