package session

import (
	"context"
	"errors"
	"testing"
	"time"
)

// audience changes the audience of a stored session.
func audience(m *memory, id, name string) {
	s := m.sessions[id]
	s.Audience = name
	m.sessions[id] = s
}

// Two sites share a store and differ only in their audience. None of a session's
// refresh tokens may be worth anything at the other site.
func TestSessionsKeepToTheirAudience(t *testing.T) {
	s := opened()
	m := newMemory(s)
	shop, admin, both := desk(t, m), desk(t, m), desk(t, m)
	shop.Audience, admin.Audience, both.Audience = []string{"shop"}, []string{"admin"}, []string{"both", "shop"}

	// The session dates from before audiences were kept, so the first site that
	// refreshes it becomes its audience.
	if _, err := admin.ByRefreshToken(t.Context(), at(admin.Keys, s, 1)); err != nil {
		t.Fatal(err)
	}
	got, token, err := shop.Refresh(t.Context(), at(shop.Keys, s, 1), start, welcome)
	if err != nil || got.Audience != "shop" || m.sessions[s.ID].Audience != "shop" {
		t.Fatalf("%+v, %v", got, err)
	}
	for name, shown := range map[string]string{"current": token, "in the grace": at(admin.Keys, s, 1), "stolen": at(admin.Keys, s, 0), "ahead": at(admin.Keys, s, 9)} {
		if _, _, err := admin.Refresh(t.Context(), shown, start, welcome); !errors.Is(err, ErrRefreshInvalid) {
			t.Errorf("%s: refreshed at another audience: %v", name, err)
		}
		if _, err := admin.ByRefreshToken(t.Context(), shown); !errors.Is(err, ErrRefreshInvalid) {
			t.Errorf("%s: shown at another audience: %v", name, err)
		}
	}
	if got := m.sessions[s.ID]; got.Counter != 2 || !got.EndedAt.IsZero() {
		t.Errorf("another audience changed it: %+v", got)
	}
	// A site that has this audience among others leaves it as it is.
	if got, _, err := both.Refresh(t.Context(), token, start, welcome); err != nil || got.Audience != "shop" || m.sessions[s.ID].Audience != "shop" {
		t.Errorf("%+v, %v", got, err)
	}
	if first := both.FirstAudience(); first != "both" {
		t.Errorf("new sessions get the audience %q", first)
	}
}

// A client shows its user why it was logged out. It learns the reason and nothing else,
// however much later it asks.
func TestEndedSessionsHaveAReason(t *testing.T) {
	gone := errors.New("unknown user")
	for _, reason := range []Reason{ReasonLogout, ReasonMax, ReasonReplaced, ReasonRevoked} {
		s := opened()
		ss := desk(t, newMemory(s))
		if _, err := ss.End(t.Context(), s.ID, reason, start); err != nil {
			t.Fatal(err)
		}
		for _, later := range []time.Duration{0, time.Hour, 20 * 24 * time.Hour, 40 * 24 * time.Hour} {
			got, _, err := ss.Refresh(t.Context(), at(ss.Keys, s, 1), start.Add(later), welcome)
			if !errors.Is(err, ErrEnded) || ss.EndReason(got) != reason {
				t.Errorf("%s, %s later: %v, reason %s", reason, later, err, ss.EndReason(got))
			}
		}
	}
	tests := []struct {
		name  string
		after time.Duration
		shown uint64
		have  func(*Sessions, *memory, Session)
		want  error
		why   Reason
	}{
		{"idle for too long", settings.Idle, 5, nil, ErrEnded, ReasonExpired},
		{"one behind after the grace", time.Hour, 4, nil, ErrLate, ReasonExpired},
		{"stolen", 0, 1, nil, ErrReuse, ReasonRevoked},
		{"forgotten", 0, 5, func(_ *Sessions, m *memory, s Session) { delete(m.sessions, s.ID) }, ErrEnded, ReasonExpired},
		{"ended by an earlier version", 0, 5, func(_ *Sessions, m *memory, s Session) { m.end(s.ID, Ending{Now: start, Until: start}) }, ErrEnded, ReasonRevoked},
		{"revoked, and the store has lost it", 0, 5, func(ss *Sessions, _ *memory, s Session) { ss.Revoked.Add(s.ID, start.Add(time.Hour)) }, ErrEnded, ReasonRevoked},
	}
	for _, tt := range tests {
		s := opened()
		s.Counter = 5
		m := newMemory(s)
		ss := desk(t, m)
		if tt.have != nil {
			tt.have(&ss, m, s)
		}
		got, _, err := ss.Refresh(t.Context(), at(ss.Keys, s, tt.shown), start.Add(tt.after), welcome)
		if !errors.Is(err, tt.want) || errors.Is(err, ErrLate) != (tt.want == ErrLate) || ss.EndReason(got) != tt.why {
			t.Errorf("%s: %v, reason %s; want %s", tt.name, err, ss.EndReason(got), tt.why)
		}
		if tt.want == ErrLate { // the next attempt learns the same reason, and is not logged a second time
			if got, _, err := ss.Refresh(t.Context(), at(ss.Keys, s, 4), start.Add(tt.after), welcome); !errors.Is(err, ErrEnded) || errors.Is(err, ErrLate) || ss.EndReason(got) != tt.why {
				t.Errorf("%s, again: %v, reason %s", tt.name, err, ss.EndReason(got))
			}
		}
	}
	s := opened()
	ss := desk(t, newMemory(s))
	_, _, err := ss.Refresh(t.Context(), at(ss.Keys, s, 1), start, func(ctx context.Context, s Session) error {
		_, _ = ss.EndUser(ctx, s.UserID, ReasonRevoked, start)
		return gone
	})
	if !errors.Is(err, gone) {
		t.Error(err)
	}
}

// A session that ends without an entry in the feed must have no valid access token
// left, whenever its last one was minted.
func TestEndOfTheLastTokenIsKept(t *testing.T) {
	s := opened()
	m := newMemory(s)
	ss := desk(t, m)
	wantCovered := func(minted time.Time) {
		t.Helper()
		if got := m.sessions[s.ID].TokensUntil; got.Before(minted.Add(settings.TokenLife + clockSkew)) {
			t.Errorf("kept until %s, and a token minted %s is good for %s", got, minted, settings.TokenLife)
		}
	}
	wantCovered(start)
	later := start.Add(time.Hour)
	if _, _, err := ss.Refresh(t.Context(), at(ss.Keys, s, 1), later, welcome); err != nil {
		t.Fatal(err)
	}
	wantCovered(later)
	// The first response was lost, so the retry mints one more token. That takes no
	// write.
	later = later.Add(settings.Grace)
	if _, _, err := ss.Refresh(t.Context(), at(ss.Keys, s, 1), later, welcome); err != nil {
		t.Fatal(err)
	}
	wantCovered(later)
	if m.extensions != 0 {
		t.Errorf("%d writes for a repeat in the grace", m.extensions)
	}
	// Another site of this issuer has a longer token lifetime.
	long := ss
	long.Settings.TokenLife = 12 * time.Hour
	if _, _, err := long.Refresh(t.Context(), at(ss.Keys, s, 1), later, welcome); err != nil {
		t.Fatal(err)
	}
	if got := m.sessions[s.ID].TokensUntil; got.Before(later.Add(12*time.Hour)) || m.extensions != 1 {
		t.Errorf("kept until %s after %d writes", got, m.extensions)
	}
	// A replica of an earlier version has advanced the session, so its last token's
	// expiry is unknown and must stay so.
	unknown := m.sessions[s.ID]
	unknown.TokensUntil = time.Time{}
	m.sessions[s.ID] = unknown
	if err := long.Extend(t.Context(), unknown, later); err != nil || !m.sessions[s.ID].TokensUntil.IsZero() {
		t.Error("an unknown end is known", err)
	}
	// Tokens with a lifetime of seconds are not kept for minutes.
	short := settings
	short.TokenLife = time.Second
	if got := New(Session{}, short, start).TokensUntil; !got.Equal(start.Add(3 * time.Second)) {
		t.Errorf("tokens of one second are kept until %s", got)
	}
}

// When twenty thousand sessions end at once, a log line names only the first hundred.
func TestEndedNamesAFewAndCountsAll(t *testing.T) {
	var e Ended
	for range 50 {
		e.Add("a", "b", "c")
	}
	if e.Count != 150 || len(e.IDs) != maxNamed {
		t.Errorf("%d, %d of them named", e.Count, len(e.IDs))
	}
}
