package token

import (
	"errors"
	"testing"
	"time"
)

// Anybody can send tokens with made-up key ids. Such a token reloads the ring, because a
// replica may have made a new key, but at most once in ten seconds. A clock that is set back
// does not stop the reloads.
func TestUnknownKeyReloadsTheRingAtTimes(t *testing.T) {
	ours, theirs := testKeys()[ES256], testKeys()[EdDSA]
	ring := NewRing()
	ring.keys.Store(ours)
	reloads := 0
	verifier := NewVerifier(testPolicy(), testSeal(t), NewCache(8))
	tokens := &Tokens{
		Ring: ring, Verifier: func() (*Verifier, error) { return verifier, nil },
		Ended: func(string) bool { return false }, ReloadRing: func() { reloads++ },
	}
	unknown := mustMint(t, theirs, testClaims())
	for _, c := range []struct {
		raw  string
		at   time.Duration
		want int
	}{
		{mustMint(t, ours, testClaims()), 0, 0},
		{unknown, 0, 1}, {unknown, 9 * time.Second, 1}, {unknown, 10 * time.Second, 2}, {"not a token", time.Minute, 2},
		{unknown, -time.Minute, 3}, {unknown, -51 * time.Second, 3},
	} {
		if _, err := tokens.Verify(c.raw, t0.Add(c.at)); (err == nil) != (c.want == 0) {
			t.Errorf("after %s: %v", c.at, err)
		}
		if reloads != c.want {
			t.Errorf("after %s: %d reloads, want %d", c.at, reloads, c.want)
		}
	}
}

// A token of an ended session is good by signature and age. Only the list of ended sessions
// stops it.
func TestTokenOfAnEndedSession(t *testing.T) {
	ks, verifier := testKeys()[ES256], NewVerifier(testPolicy(), testSeal(t), NewCache(8))
	ended := ""
	tokens := &Tokens{Static: ks, Verifier: func() (*Verifier, error) { return verifier, nil }, Ended: func(id string) bool { return id == ended }}
	raw := mustMint(t, ks, testClaims())
	if _, err := tokens.Verify(raw, t0); err != nil {
		t.Error(err)
	}
	ended = testClaims().SessionID
	if _, err := tokens.Verify(raw, t0); !errors.Is(err, ErrRevoked) {
		t.Errorf("ended: %v", err)
	}
}

// Before the store is open, nothing is verified. A token that cannot be ours is refused even
// then, so that a client with another system's token is not asked to try again.
func TestTokensBeforeTheStoreIsOpen(t *testing.T) {
	closed := errors.New("not open")
	tokens := &Tokens{Ring: NewRing(), Verifier: func() (*Verifier, error) { return nil, closed }}
	for raw, want := range map[string]error{
		mustMint(t, testKeys()[ES256], testClaims()): closed,
		"another.systems.token":                      ErrInvalid,
	} {
		if _, err := tokens.Verify(raw, t0); !errors.Is(err, want) || tokens.Ours(raw) != (want == closed) {
			t.Errorf("%v, want %v", err, want)
		}
	}
}
