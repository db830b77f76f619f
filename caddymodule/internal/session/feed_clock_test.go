package session

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/clock"
)

// clocked is a memory that has a clock of its own, as databases do, together with a
// replica whose clock a test can set wrong.
type clocked struct {
	*memory
	feed     *Feed
	wrong    time.Duration // error of the replica's clock
	database time.Duration // error of the database's clock
}

func newClocked(m *memory) *clocked {
	r := NewRevoked()
	r.Clock = clock.New()
	return &clocked{memory: m, feed: NewFeed(r)}
}

func (c *clocked) now() time.Time { return time.Now().Round(0).Add(c.wrong) }

func (c *clocked) Revocations(ctx context.Context, after int64, window time.Duration) ([]Revocation, error) {
	rs, err := c.memory.Revocations(ctx, after, window)
	if err == nil {
		c.feed.Clock.Compare(c.now(), 0, time.Now().Add(c.database))
	}
	return rs, err
}

// second does what Run does in a second, followed by a complete sweep.
func (c *clocked) second(t *testing.T) {
	t.Helper()
	c.ticks()
	if err := c.feed.Poll(t.Context(), c, c.now()); err != nil {
		t.Fatal(err)
	}
	c.ticks()
}

func (c *clocked) ticks() {
	for range shards {
		c.feed.tick(c.now())
	}
}

// A clock jumps ahead and back, or back and ahead, together with the database's clock or
// alone. A revoked token must never become valid meanwhile, whether its session ended before
// or during the jump. Afterwards, revocations that no token needs are dropped again.
func TestJumpBringsNoRevokedTokenBack(t *testing.T) {
	const day = 24 * time.Hour
	for _, tt := range []struct {
		name            string
		wrong, database time.Duration
	}{
		{"a day ahead", day, 0}, {"a day back", -day, 0}, {"200 days ahead", 200 * day, 0},
		{"a day ahead, with the database", day, day}, {"a day back, with the database", -day, -day},
		{"only the database", 0, 2 * day},
	} {
		for _, begins := range []bool{false, true} {
			name := tt.name
			if begins {
				if tt.wrong == tt.database {
					continue // the jump cannot be noticed
				}
				name += ", from the start"
			}
			t.Run(name, func(t *testing.T) {
				m := newMemory()
				m.clock = time.Now
				m.write(number(1), time.Now().Add(time.Hour), true)
				m.write(number(2), time.Now().Add(-time.Second), true)
				c := newClocked(m)
				if !begins {
					c.second(t)
				}
				want := func(when string, ids ...int) {
					t.Helper()
					for _, id := range ids {
						if !c.feed.Revoked.Contains(number(id)) {
							t.Fatalf("%s: the tokens of %d are accepted", when, id)
						}
					}
				}
				c.wrong, c.database = tt.wrong, tt.database
				if !begins {
					c.ticks()
				}
				for range 3 {
					c.second(t)
					want("wrong", 1)
				}
				if !c.feed.Clock.State().Off {
					t.Fatal("nothing is known of it")
				}
				m.write(number(3), time.Now().Add(time.Hour), true)
				c.second(t)
				want("wrong", 1, 3)
				c.wrong, c.database = 0, 0
				c.ticks()
				want("right again, before the first poll", 1, 3)
				for range 3 {
					c.second(t)
					want("right again", 1, 3)
				}
				if c.feed.Clock.State().Off || c.feed.Revoked.Contains(number(2)) {
					t.Errorf("%+v, or what is over is kept", c.feed.Clock.State())
				}
			})
		}
	}
}

// Two replicas share a store. After an hour, a wrong clock is trusted and sweeps
// revocations by mistake. They must come back once the clock is right again.
func TestWholeSetIsReadAgainAfterAJump(t *testing.T) {
	m := newMemory()
	m.clock = time.Now
	m.write(number(1), time.Now().Add(time.Hour), true)
	c := newClocked(m)
	c.second(t)
	c.feed.Revoked.sweep(time.Now().Add(24 * time.Hour))
	for range shards {
		c.feed.Revoked.sweep(time.Now().Add(24 * time.Hour))
	}
	if c.feed.Revoked.Contains(number(1)) {
		t.Fatal("it was not swept")
	}
	for _, wrong := range []time.Duration{48 * time.Hour, 0} {
		m.feed[0].written = time.Now().Add(-time.Hour) // further back than a poll looks
		c.wrong = wrong
		c.ticks()
		c.second(t)
		if !c.feed.Revoked.Contains(number(1)) {
			t.Errorf("wrong by %v: not read again", wrong)
		}
	}
}

// The clock jumps ahead by a day: a WebSocket whose token expires in an hour stays
// open. The clock jumps back: a WebSocket whose token expires now is still closed.
func TestJumpNeitherEndsNorKeepsConnections(t *testing.T) {
	c := newClocked(newMemory())
	c.second(t)
	long, release := watch(c.feed.Revoked, number(1), c.now().Add(time.Hour))
	defer release()
	for _, wrong := range []time.Duration{24 * time.Hour, 0, -24 * time.Hour} {
		c.wrong = wrong
		c.second(t)
		if err := context.Cause(long); err != nil {
			t.Fatalf("wrong by %v: %v", wrong, err)
		}
	}
	c.wrong = 0
	c.second(t)
	short, release := watch(c.feed.Revoked, number(2), c.now().Add(20*time.Millisecond))
	defer release()
	c.wrong = -24 * time.Hour
	for deadline := time.Now().Add(10 * time.Second); short.Err() == nil && time.Now().Before(deadline); {
		c.feed.tick(c.now())
		time.Sleep(time.Millisecond)
	}
	if !errors.Is(context.Cause(short), ErrTokenExpired) {
		t.Errorf("set back: the connection of an expired token lives on: %v", context.Cause(short))
	}
}
