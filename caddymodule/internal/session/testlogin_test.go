package session

import (
	"errors"
	"slices"
	"testing"
	"time"
)

// A test session ends with the last day, whatever the lifetime of sessions, and when the
// configuration loses the line or has another secret. It survives a new encryption key.
func TestSessionOfATestLogin(t *testing.T) {
	day := 24 * time.Hour
	line := TestLogin{Marks: []string{"newer", "mark"}, Until: start.Add(2 * day)}
	for _, tt := range []struct {
		name   string
		line   TestLogin
		after  time.Duration
		want   error
		reason Reason
	}{
		{"in time", line, day, nil, ""},
		{"after the last day", line, 2 * day, ErrEnded, ReasonExpired},
		{"the last day is earlier now", TestLogin{line.Marks, start.Add(day)}, day, ErrEnded, ReasonExpired},
		{"a later day revives nothing", TestLogin{line.Marks, start.Add(9 * day)}, 3 * day, ErrEnded, ReasonExpired},
		{"another secret", TestLogin{[]string{"other"}, line.Until}, day, ErrEnded, ReasonRevoked},
		{"no line", TestLogin{}, day, ErrEnded, ReasonRevoked},
	} {
		m := newMemory()
		ss := desk(t, m)
		ss.Test = TestLogin{[]string{"mark"}, line.Until}
		s := ss.NewTest(Session{UserID: "u1", Issuer: "wx-auth", AppID: "wxapp"}, start)
		if s.Test != "mark" || !s.ExpiresAt.Equal(line.Until) {
			t.Errorf("%+v", s)
		}
		m.sessions[s.ID] = s
		ss.Test = tt.line
		got, _, err := ss.Refresh(t.Context(), ss.Keys.RefreshToken(s), start.Add(tt.after), welcome)
		if !errors.Is(err, tt.want) || err == nil && !got.ExpiresAt.Equal(line.Until) || err != nil && ss.EndReason(got) != tt.reason {
			t.Errorf("%s: %+v, %v, %s", tt.name, got, err, ss.EndReason(got))
		}
	}
}

// With each key the same secret has another mark, so that nobody can find out the secret from
// a mark.
func TestMarksDependOnTheKeys(t *testing.T) {
	one, _ := NewKeys([]byte("0123456789abcdef0123456789abcdef"))
	both, _ := NewKeys([]byte("fedcba9876543210fedcba9876543210"), []byte("0123456789abcdef0123456789abcdef"))
	a, b := one.Marks([]byte("secret")), both.Marks([]byte("secret"))
	if len(a) != 1 || len(b) != 2 || !slices.Contains(b, a[0]) || b[0] == a[0] || slices.Contains(one.Marks([]byte("secreT")), a[0]) {
		t.Errorf("%q and %q", a, b)
	}
}
