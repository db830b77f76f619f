package token

import (
	"errors"
	"testing"
	"time"
)

// A reviewer's token is good until the end of the last day, and only while the configuration
// has the line with the same secret. Cached tokens follow a changed line at once.
func TestTokenOfATestLogin(t *testing.T) {
	ks, seal, cache := testKeys()[ES256], testSeal(t), NewCache(64)
	c := testClaims()
	c.OpenID, c.UnionID, c.Test = "", "", "mark"
	raw := mustMint(t, ks, c)
	with := func(marks []string, until time.Time) *Verifier {
		p := testPolicy()
		p.Test = TestLogin{Marks: marks, Until: until}
		return NewVerifier(p, seal, cache)
	}
	for range 2 {
		for _, tt := range []struct {
			name string
			v    *Verifier
			now  time.Time
			want error
		}{
			{"the line is there", with([]string{"newer", "mark"}, t0.Add(time.Minute)), t0, nil},
			{"at the end of the day", with([]string{"mark"}, t0.Add(time.Minute)), t0.Add(time.Minute), ErrExpired},
			{"another secret", with([]string{"other"}, t0.Add(time.Minute)), t0, ErrRevoked},
			{"no line", NewVerifier(testPolicy(), seal, cache), t0, ErrRevoked},
			{"the token's own end", with([]string{"mark"}, t0.Add(48*time.Hour)), t0.Add(2 * time.Hour), ErrExpired},
		} {
			id, err := tt.v.Verify(ks, raw, tt.now)
			if !errors.Is(err, tt.want) || err == nil && (!id.Test() || id.Phone() != c.Phone || id.OpenID() != "") {
				t.Errorf("%s: %+v, %v", tt.name, id, err)
			}
			if reason := tt.v.Explain(ks, raw, tt.now); (reason == "") != (tt.want == nil) {
				t.Errorf("%s: explained as %q", tt.name, reason)
			}
		}
	}
	if id, err := with([]string{"mark"}, t0).Verify(ks, mustMint(t, ks, testClaims()), t0); err != nil || id.Test() {
		t.Errorf("another user's token: %+v, %v", id, err)
	}
}
