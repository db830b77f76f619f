package session

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The counter in a refresh token decides what happens after a lost response, a stolen token,
// or a write that the store has lost.
func TestCounterTable(t *testing.T) {
	const now, grace = 90 * time.Minute, time.Minute
	tests := []struct {
		name     string
		stored   uint64
		advanced time.Duration // before now
		shown    uint64
		want     error
		next     uint64 // the counter of the returned token
		advances int
	}{
		{"current", 7, time.Hour, 7, nil, 8, 1},
		{"current, the first", 1, now, 1, nil, 2, 1},
		{"current, at once", 7, 0, 7, nil, 8, 1},
		{"one behind, at once", 7, 0, 6, nil, 7, 0},
		{"one behind, at the end of the grace", 7, grace, 6, nil, 7, 0},
		{"one behind, advanced on a clock that is ahead", 7, -grace, 6, nil, 7, 0},
		{"one behind, after the grace", 7, grace + time.Millisecond, 6, ErrEnded, 0, 0},
		{"one behind, the clock was set back", 7, -grace - time.Millisecond, 6, ErrEnded, 0, 0},
		{"two behind, at once", 7, 0, 5, ErrReuse, 0, 0},
		{"two behind, later", 7, time.Hour, 5, ErrReuse, 0, 0},
		{"far behind", 1 << 40, time.Hour, 1, ErrReuse, 0, 0},
		{"never issued", 2, time.Hour, 0, ErrReuse, 0, 0},
		{"one ahead", 7, time.Hour, 8, nil, 9, 1},
		{"far ahead", 7, 0, 4000, nil, 4001, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			now := start.Add(now)
			s := opened()
			s.Counter, s.AdvancedAt = tt.stored, now.Add(-tt.advanced)
			s.RefreshedAt, s.TokensUntil = s.AdvancedAt, now.Add(2*time.Hour)
			m := newMemory(s)
			ss := desk(t, m)

			got, token, err := ss.Refresh(t.Context(), at(ss.Keys, s, tt.shown), now, welcome)
			if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if m.advances != tt.advances {
				t.Errorf("advanced %d times, want %d", m.advances, tt.advances)
			}
			kept := m.sessions[s.ID]
			if got.ID != s.ID {
				t.Errorf("got session %q", got.ID)
			}
			if tt.want != nil {
				if token != "" {
					t.Error("a token came with the error")
				}
				if !kept.EndedAt.Equal(now) || kept.Counter != tt.stored || !ss.Revoked.Contains(s.ID) {
					t.Errorf("not ended: %+v, revoked here: %v", kept, ss.Revoked.Contains(s.ID))
				}
				if len(m.feed) != 1 || m.feed[0].SessionID != s.ID || !m.feed[0].Until.Equal(settings.Until(now)) {
					t.Errorf("the other replicas read %+v", m.feed)
				}
				return
			}
			if want := at(ss.Keys, s, tt.next); token != want {
				t.Errorf("answered another token than that of counter %d", tt.next)
			}
			if got != kept {
				t.Errorf("answered %+v, stored %+v", got, kept)
			}
			if !kept.EndedAt.IsZero() || ss.Revoked.Len() != 0 {
				t.Error("the session ended")
			}
			if tt.advances == 0 && kept != s {
				t.Errorf("a repeat changed the session: %+v", kept)
			}
			if tt.advances == 1 && (!kept.AdvancedAt.Equal(now) || !kept.RefreshedAt.Equal(now) || !kept.ExpiresAt.Equal(now.Add(settings.Idle))) {
				t.Errorf("times of the advance: %+v", kept)
			}
		})
	}
}

// Many tabs or replicas refresh with the same token at once. Exactly one advance
// happens, and all get the same next token: the user must not be logged out.
func TestParallelRefreshesAreOneRotation(t *testing.T) {
	s := opened()
	m := newMemory(s)
	// All of them read the session before any of them advances it.
	var all sync.WaitGroup
	all.Add(50)
	var once sync.Map
	first := func(i int) {
		if _, again := once.LoadOrStore(i, true); !again {
			all.Done()
			all.Wait()
		}
	}
	replicas := []Sessions{desk(t, m), desk(t, m)}
	var counted atomic.Int32
	for i := range replicas {
		replicas[i].Advanced = func(string, time.Time) { counted.Add(1) }
	}
	shown := replicas[0].Keys.RefreshToken(s)
	tokens := make([]string, 50)
	var wg sync.WaitGroup
	for i := range tokens {
		wg.Go(func() {
			_, token, err := replicas[i%2].Refresh(t.Context(), shown, start.Add(time.Hour), func(context.Context, Session) error {
				first(i)
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			tokens[i] = token
		})
	}
	wg.Wait()
	want := at(replicas[0].Keys, s, 2)
	for _, token := range tokens {
		if token != want {
			t.Fatal("two different refresh tokens were answered")
		}
	}
	if got := m.sessions[s.ID]; m.advances != 1 || got.Counter != 2 || !got.EndedAt.IsZero() {
		t.Errorf("%d rotations, session %+v", m.advances, got)
	}
	if n := counted.Load(); n != 1 {
		t.Errorf("%d refreshes were counted", n)
	}
}

// overtaken is a store in which another refresh advances the counter first.
type overtaken struct {
	*memory
	times int
	by    func()
}

func (o *overtaken) Advance(ctx context.Context, id string, a Advance) (bool, error) {
	if o.times > 0 {
		o.times--
		o.by()
	}
	return o.memory.Advance(ctx, id, a)
}

// A refresh loses the update of the counter to another refresh. It must decide again by the
// new counter: repeat the answer, end the session, or continue.
func TestOvertakenRefreshStartsAgain(t *testing.T) {
	now := start.Add(time.Hour)
	tests := []struct {
		name     string
		counter  uint64 // of the presented token; the store has 5
		meantime func(*Session)
		want     error
		next     uint64
	}{
		{"by the same token", 5, func(s *Session) { s.Counter, s.AdvancedAt = 6, now }, nil, 6},
		{"by the token after it", 5, func(s *Session) { s.Counter, s.AdvancedAt = 7, now }, ErrReuse, 0},
		{"by logout", 5, func(s *Session) { s.EndedAt = now }, ErrEnded, 0},
		{"by a token further behind, while ahead", 9, func(s *Session) { s.Counter, s.AdvancedAt = 6, now }, nil, 10},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := opened()
			s.Counter = 5
			m := newMemory(s)
			ss := desk(t, m)
			ss.Store = &overtaken{m, 1, func() {
				changed := m.sessions[s.ID]
				tt.meantime(&changed)
				m.sessions[s.ID] = changed
			}}
			asked := 0
			_, token, err := ss.Refresh(t.Context(), at(ss.Keys, s, tt.counter), now, func(context.Context, Session) error {
				asked++
				return nil
			})
			if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if err == nil && token != at(ss.Keys, s, tt.next) {
				t.Errorf("answered another token than that of counter %d", tt.next)
			}
			if asked != 1 {
				t.Errorf("the directory was asked %d times", asked)
			}
		})
	}

	t.Run("for ever", func(t *testing.T) {
		s := opened()
		m := newMemory(s)
		ss := desk(t, m)
		ss.Store = stubborn{m}
		_, token, err := ss.Refresh(t.Context(), ss.Keys.RefreshToken(s), now, welcome)
		if !errors.Is(err, errRaces) || token != "" {
			t.Errorf("got %v", err)
		}
	})
}

// stubborn is a store that never advances the counter, as if it read from a database replica
// that lags behind.
type stubborn struct{ *memory }

func (stubborn) Advance(context.Context, string, Advance) (bool, error) {
	return false, nil
}

// A forged token, or a user whom the directory refuses, must leave the session and the
// feed as they were.
func TestRefusedRefreshChangesNothing(t *testing.T) {
	s := opened()
	s.Counter = 5
	unwelcome := errors.New("disabled")
	tests := []struct {
		name  string
		shown func(Keys) string
		ss    func(*Sessions, *memory)
		want  error
		reads int
	}{
		{"not a token", func(Keys) string { return "x" }, nil, ErrRefreshInvalid, 0},
		{"empty", func(Keys) string { return "" }, nil, ErrRefreshInvalid, 0},
		{"another key", func(Keys) string { return at(testKeys(t, secret(9)), s, 5) }, nil, ErrRefreshInvalid, 0},
		{"another issuer", func(k Keys) string { return at(k, s, 5) }, func(ss *Sessions, _ *memory) { ss.Issuer = "other" }, ErrRefreshInvalid, 1},
		{"another issuer, stolen", func(k Keys) string { return at(k, s, 1) }, func(ss *Sessions, _ *memory) { ss.Issuer = "other" }, ErrRefreshInvalid, 1},
		{"another audience", func(k Keys) string { return at(k, s, 5) }, func(ss *Sessions, m *memory) { audience(m, s.ID, "admin") }, ErrRefreshInvalid, 1},
		{"another audience, stolen", func(k Keys) string { return at(k, s, 1) }, func(ss *Sessions, m *memory) { audience(m, s.ID, "admin") }, ErrRefreshInvalid, 1},
		{"another app", func(k Keys) string { return at(k, s, 5) }, func(ss *Sessions, _ *memory) { ss.Apps = []string{"wxother"} }, ErrRefreshInvalid, 1},
		{"another app, too late", func(k Keys) string { return at(k, s, 4) }, func(ss *Sessions, _ *memory) { ss.Apps = nil }, ErrRefreshInvalid, 1},
		{"forgotten session", func(k Keys) string { return at(k, s, 5) }, func(_ *Sessions, m *memory) { clear(m.sessions) }, ErrEnded, 1},
		{"store away", func(k Keys) string { return at(k, s, 5) }, func(_ *Sessions, m *memory) { m.fail = errAway }, errAway, 1},
		{"unwelcome", func(k Keys) string { return at(k, s, 5) }, nil, unwelcome, 1},
		{"unwelcome, asked again", func(k Keys) string { return at(k, s, 4) }, nil, unwelcome, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := newMemory(s)
			ss := desk(t, m)
			shown := tt.shown(ss.Keys)
			if tt.ss != nil {
				tt.ss(&ss, m)
			}
			before := m.sessions[s.ID]
			_, token, err := ss.Refresh(t.Context(), shown, start, func(context.Context, Session) error { return unwelcome })
			if !errors.Is(err, tt.want) || token != "" {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if m.reads != tt.reads {
				t.Errorf("the store was read %d times, want %d", m.reads, tt.reads)
			}
			if m.sessions[s.ID] != before || len(m.feed) != 0 || ss.Revoked.Len() != 0 {
				t.Error("something changed")
			}
		})
	}
}

// The directory may be somebody's backend, so a refresh that the rate limit refuses does not
// ask it.
func TestRateIsAskedBeforeTheDirectory(t *testing.T) {
	s := opened()
	s.Counter = 5
	much := errors.New("too many")
	for name, tt := range map[string]struct {
		shown  uint64
		asked  int
		denied bool
	}{
		"one that would advance":      {5, 0, true},
		"one ahead, after a failover": {6, 0, true},
		"a repeat within the grace":   {4, 1, false},
	} {
		ss := desk(t, newMemory(s))
		ss.Allow = func(string, time.Time) error { return much }
		asked := 0
		_, _, err := ss.Refresh(t.Context(), at(ss.Keys, s, tt.shown), s.AdvancedAt, func(context.Context, Session) error { asked++; return nil })
		if asked != tt.asked || errors.Is(err, much) != tt.denied {
			t.Errorf("%s: the directory was asked %d times; %v", name, asked, err)
		}
	}
}

// NTP sets the wall clock back by hours. What a session has used of its rate must not refuse its
// refreshes until the clock is where it was: the rate is measured by the monotonic clock.
func TestRateIsMeasuredMonotonically(t *testing.T) {
	s := opened()
	s.Counter = 5
	ss := desk(t, newMemory(s))
	var allowed, advanced time.Time
	ss.Allow = func(_ string, now time.Time) error { allowed = now; return nil }
	ss.Advanced = func(_ string, now time.Time) { advanced = now }
	now := time.Now()
	now = now.Add(s.AdvancedAt.Sub(now)) // the session's time, with a monotonic reading
	if _, _, err := ss.Refresh(t.Context(), at(ss.Keys, s, 5), now, func(context.Context, Session) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if allowed != now || advanced != now {
		t.Errorf("%v, allowed at %v, advanced at %v", now, allowed, advanced)
	}
}

// A session ends after its idle time and after its lifetime, whichever comes first,
// also if the settings were shortened meanwhile.
func TestSessionsExpire(t *testing.T) {
	day := 24 * time.Hour
	shorter := settings
	shorter.Idle, shorter.Lifetime = 2*day, 20*day
	longer := settings
	longer.Idle, longer.Lifetime = 300*day, 3000*day
	tests := []struct {
		name      string
		set       Settings
		refreshed time.Duration // after start
		now       time.Duration
		want      error
		expires   time.Duration
	}{
		{"in time", settings, 0, 30*day - time.Millisecond, nil, 60*day - time.Millisecond},
		{"idle", settings, 0, 30 * day, ErrEnded, 0},
		{"refreshed late in its life", settings, 160 * day, 170 * day, nil, 180 * day},
		{"old", settings, 170 * day, 180 * day, ErrEnded, 0},
		{"idle by shorter settings", shorter, 0, 2 * day, ErrEnded, 0},
		{"old by shorter settings", shorter, 19 * day, 20 * day, ErrEnded, 0},
		{"longer settings revive nothing", longer, 0, 30 * day, ErrEnded, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := opened()
			s.RefreshedAt = start.Add(tt.refreshed)
			s.AdvancedAt = s.RefreshedAt
			s.ExpiresAt = settings.expires(s.CreatedAt, s.RefreshedAt)
			m := newMemory(s)
			ss := desk(t, m)
			ss.Settings = tt.set
			got, token, err := ss.Refresh(t.Context(), ss.Keys.RefreshToken(s), start.Add(tt.now), welcome)
			if !errors.Is(err, tt.want) || (token == "") != (tt.want != nil) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if err == nil && !got.ExpiresAt.Equal(start.Add(tt.expires)) {
				t.Errorf("expires %v, want %v", got.ExpiresAt, start.Add(tt.expires))
			}
			if err != nil && m.advances != 0 {
				t.Error("it advanced")
			}
		})
	}
}

// No token revives an ended session, even if a failover loses the write of the logout.
func TestEndedSessionIsNeverRevived(t *testing.T) {
	for counter := uint64(1); counter < 8; counter++ { // behind, current, ahead
		s := opened()
		s.Counter, s.AdvancedAt = 5, start
		m := newMemory(s)
		ss := desk(t, m)
		if ended, err := ss.End(t.Context(), s.ID, ReasonLogout, start); err != nil || !ended {
			t.Fatal(ended, err)
		}
		ended := m.sessions[s.ID]
		for _, replica := range []Sessions{ss, desk(t, m)} {
			got, token, err := replica.Refresh(t.Context(), at(ss.Keys, s, counter), start, welcome)
			if !errors.Is(err, ErrEnded) || token != "" || got.ID != s.ID {
				t.Errorf("counter %d: got %v", counter, err)
			}
		}
		if m.sessions[s.ID] != ended || len(m.feed) != 1 {
			t.Errorf("counter %d changed the ended session", counter)
		}
		// The store has lost the write of the logout, but this process remembers it.
		m.sessions[s.ID] = s
		if _, _, err := ss.Refresh(t.Context(), at(ss.Keys, s, counter), start, welcome); !errors.Is(err, ErrEnded) {
			t.Errorf("counter %d after a failover: got %v", counter, err)
		}
		if m.sessions[s.ID] != s {
			t.Error("it advanced")
		}
	}
}

// The user logs out on another replica while a repeated refresh waits for the
// directory. The refresh must not hand out another token.
func TestLogoutWhileTheDirectoryAnswers(t *testing.T) {
	s := opened()
	s.Counter, s.AdvancedAt = 5, start
	m := newMemory(s)
	ss := desk(t, m)
	_, token, err := ss.Refresh(t.Context(), at(ss.Keys, s, 4), start, func(ctx context.Context, _ Session) error {
		_, err := m.End(ctx, s.ID, Ending{Reason: ReasonLogout, Now: start, Until: start}) // on another replica
		return err
	})
	if !errors.Is(err, ErrEnded) || token != "" {
		t.Errorf("got %v", err)
	}
}
