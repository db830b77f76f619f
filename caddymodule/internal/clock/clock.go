// Package clock decides whether this process's wall clock can be trusted. It compares it with the
// database's clock, which all replicas share, and with the monotonic clock, which never jumps. It
// reads no wall clock itself and does no I/O.
package clock

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// Bound is the difference between clocks above which ours counts as wrong.
	Bound = time.Minute
	// calm is the difference up to which a wrong clock counts as right again. It is
	// lower than Bound, so that a clock near Bound does not change its state every
	// second.
	calm = 50 * time.Second

	// adoptAfter is how long, after a jump, a wall clock must run evenly and agree with
	// the database's clock before it is trusted again at its new time. Agreement alone
	// proves little: the database may run on the same machine and have jumped with it.
	adoptAfter = time.Hour

	// renewAfter is the interval at which the reference point for jumps is renewed. NTP
	// may slew a clock by half a second in that time; over days this must not add up to
	// a jump.
	renewAfter = 10 * time.Minute
)

// State describes the wall clock.
type State struct {
	// Off means that the wall clock must not be trusted.
	Off bool
	// Jumped means that the wall clock disagrees with the monotonic clock. If Off is set without
	// Jumped, it disagrees with the database's clock.
	Jumped bool
	// Ahead is how far the wall clock is ahead. It is negative if the clock is behind.
	Ahead time.Duration
	// Generation changes whenever another field does.
	Generation uint64
}

// Clock watches one wall clock. A nil Clock trusts it. Its methods may be called from
// many goroutines at once.
type Clock struct {
	elapsed func() time.Duration // monotonic

	mu     sync.Mutex
	begun  bool
	base   reading // the first one
	anchor reading // the reference point for jumps: the last reading that was trusted

	jump     time.Duration // how far the wall clock is ahead of where it should be; 0: no jump
	jumpedAt time.Duration // monotonic time of the jump

	offset    time.Duration // the database's clock minus ours
	apart     bool          // the two differ too much
	ahead     time.Duration // how far ours is ahead of the database's
	agreedAt  time.Duration // monotonic time at which they last agreed
	confirmed time.Time     // our time at that moment, if our clock was trusted

	skew  atomic.Int64 // add this to the wall clock to get the steady clock
	shift atomic.Int64 // what Shift returns
	state atomic.Pointer[State]
}

// reading is a pair of readings, taken together, of the wall clock and the monotonic
// clock.
type reading struct {
	wall time.Time
	at   time.Duration
}

// New makes a Clock that trusts the wall clock until it is proved wrong.
func New() *Clock { return newClock(monotonic()) }

func newClock(elapsed func() time.Duration) *Clock {
	c := &Clock{elapsed: elapsed}
	c.state.Store(new(State))
	return c
}

// State returns the current state.
func (c *Clock) State() State {
	if c == nil {
		return State{}
	}
	return *c.state.Load()
}

// Shift returns what to add to the wall clock to get the database's time. It is zero
// while the two agree, because small differences are only delays of the network.
func (c *Clock) Shift() time.Duration {
	if c == nil {
		return 0
	}
	return time.Duration(c.shift.Load())
}

// Database returns the database's time at the moment when the wall clock shows now.
func (c *Clock) Database(now time.Time) time.Time {
	if c == nil {
		return now
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return now.Add(c.offset)
}

// Tick compares the wall clock with the monotonic clock. It must be called several
// times a second.
func (c *Clock) Tick(now time.Time) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.look(now)
}

// look does the work of Tick and returns the monotonic time.
func (c *Clock) look(now time.Time) time.Duration {
	r := reading{now.Round(0), c.elapsed()}
	if !c.begun {
		c.begun, c.base, c.anchor = true, r, r
	}
	c.skew.Store(int64(r.since(c.base) * -1))
	jump := r.since(c.anchor)
	switch {
	case abs(jump) > Bound:
		if abs(jump-c.jump) > Bound {
			c.jump, c.jumpedAt = jump, r.at
			c.changed()
		} else if r.at-c.jumpedAt >= adoptAfter && c.agreedAt > c.jumpedAt && !c.apart {
			c.adopt(r)
		}
	case c.jump != 0:
		c.jump = 0 // the wall clock has jumped back
		c.changed()
	case r.at-c.anchor.at >= renewAfter:
		c.anchor = r
	}
	return r.at
}

// since returns how much further the wall clock has advanced than the monotonic clock.
func (r reading) since(before reading) time.Duration {
	return r.wall.Sub(before.wall) - (r.at - before.at)
}

// adopt trusts the wall clock at its present time.
func (c *Clock) adopt(r reading) {
	c.jump, c.anchor = 0, r
	c.changed()
}

// Compare compares the wall clock with the database's. asked is our time when the
// question was sent to the database, and took is how long the answer took.
func (c *Clock) Compare(asked time.Time, took time.Duration, database time.Time) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	asked = asked.Round(0)
	at := c.look(asked.Add(took))
	// The database read its clock at some moment between question and answer.
	ahead := min(0, asked.Add(took).Sub(database))
	if asked.After(database) {
		ahead = asked.Sub(database)
	}
	c.offset = database.Sub(asked.Add(took / 2))
	was := c.apart
	switch {
	case abs(ahead) > Bound:
		c.apart = true
	case abs(ahead) <= calm:
		c.apart = false
	}
	moved := c.apart && abs(ahead-c.ahead) > Bound
	c.ahead = ahead
	if c.apart {
		// Keep the shift constant while both clocks run at the same rate, so that a time is read
		// back from the database exactly as it was written.
		if abs(c.offset-time.Duration(c.shift.Load())) > time.Second {
			c.shift.Store(int64(c.offset))
		}
	} else {
		c.shift.Store(0)
		c.agreedAt = at
		if was && c.jump != 0 {
			// The clock was wrong, jumped, and agrees now: somebody has set it.
			c.adopt(reading{asked.Add(took), at})
		}
	}
	if was != c.apart || moved {
		c.changed()
	}
	if !c.apart && c.jump == 0 {
		c.confirmed = asked
	}
}

// changed publishes a new State.
func (c *Clock) changed() {
	s := State{Generation: c.state.Load().Generation + 1}
	switch {
	case c.apart:
		s.Off, s.Ahead = true, c.ahead
	case c.jump != 0:
		s.Off, s.Jumped, s.Ahead = true, true, c.jump
	}
	c.state.Store(&s)
}

// Confirmed returns the latest wall-clock time, at most now, at which the database's
// clock agreed and no jump was seen. Whatever had expired by then has really expired.
// It returns false while the clock is off, and before the first comparison.
func (c *Clock) Confirmed(now time.Time) (time.Time, bool) {
	if c == nil {
		return now, true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.Load().Off || c.confirmed.IsZero() {
		return time.Time{}, false
	}
	if now.Before(c.confirmed) {
		return now, true
	}
	return c.confirmed, true
}

// Steady translates a time of the wall clock, as it runs now, to a time line without
// jumps. On it, an hour takes an hour.
func (c *Clock) Steady(wall time.Time) time.Time {
	if c == nil {
		return wall
	}
	return wall.Add(time.Duration(c.skew.Load()))
}

func abs(d time.Duration) time.Duration { return max(d, -d) }
