// Package clock judges this process's wall clock: by the database's, which all
// replicas share, and by the monotonic clock, which never jumps. It reads no
// wall clock itself and does no I/O.
package clock

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// Bound is how far clocks may differ before they count as wrong.
	Bound = time.Minute
	// calm is how far they may differ at most to count as right again, so that
	// a clock at the bound does not change its state every second.
	calm = 50 * time.Second

	// adoptAfter is how long a wall clock must run evenly after a jump, in
	// agreement with the database's, before it is trusted where it is now. The
	// database may be on the same machine and have jumped with it.
	adoptAfter = time.Hour

	// renewAfter is how often the wall clock's place is noted again. NTP slews
	// a clock by half a second in that time, which must not add up to a jump.
	renewAfter = 10 * time.Minute
)

// State is what is known of the wall clock.
type State struct {
	// Off says that it is not to be trusted.
	Off bool
	// Jumped says that it disagrees with the monotonic clock. Otherwise, if it
	// is off, it disagrees with the database's clock.
	Jumped bool
	// Ahead is by how much; negative: behind.
	Ahead time.Duration
	// Generation changes whenever any of this does.
	Generation uint64
}

// Clock is the judgement on one wall clock. A nil Clock trusts it. Its methods
// may be called from many goroutines at once.
type Clock struct {
	elapsed func() time.Duration // monotonic

	mu     sync.Mutex
	begun  bool
	base   reading // the first one
	anchor reading // the last one that was trusted

	jump     time.Duration // how far the wall clock is ahead of where it should be; 0: it has not jumped
	jumpedAt time.Duration // when it came to be there

	offset    time.Duration // the database's clock less ours
	apart     bool          // ours and the database's differ by too much
	ahead     time.Duration // by how much ours is ahead of it
	agreedAt  time.Duration // when they last agreed
	confirmed time.Time     // ours at that time, if it was trusted

	skew  atomic.Int64 // what must be added to the wall clock for the steady one
	shift atomic.Int64
	state atomic.Pointer[State]
}

// reading is the wall clock at a monotonic time.
type reading struct {
	wall time.Time
	at   time.Duration
}

// New makes a Clock that trusts the wall clock until it is shown otherwise.
func New() *Clock { return newClock(monotonic()) }

func newClock(elapsed func() time.Duration) *Clock {
	c := &Clock{elapsed: elapsed}
	c.state.Store(new(State))
	return c
}

// State is what is known now.
func (c *Clock) State() State {
	if c == nil {
		return State{}
	}
	return *c.state.Load()
}

// Shift is what to add to the wall clock for the database's time. It is zero as
// long as the two agree: then the difference means nothing.
func (c *Clock) Shift() time.Duration {
	if c == nil {
		return 0
	}
	return time.Duration(c.shift.Load())
}

// Database is the database's time when the wall clock shows now.
func (c *Clock) Database(now time.Time) time.Time {
	if c == nil {
		return now
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return now.Add(c.offset)
}

// Tick compares the wall clock with the monotonic one. It must be called several
// times a second.
func (c *Clock) Tick(now time.Time) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.look(now)
}

// look does what Tick does and returns the monotonic time.
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
		c.jump = 0 // it is back
		c.changed()
	case r.at-c.anchor.at >= renewAfter:
		c.anchor = r
	}
	return r.at
}

// since is how much more the wall clock has advanced than the monotonic one.
func (r reading) since(before reading) time.Duration {
	return r.wall.Sub(before.wall) - (r.at - before.at)
}

// adopt trusts the wall clock where it is.
func (c *Clock) adopt(r reading) {
	c.jump, c.anchor = 0, r
	c.changed()
}

// Compare compares the wall clock with the database's: asked is ours when the
// database was asked for its own, took how long the answer took.
func (c *Clock) Compare(asked time.Time, took time.Duration, database time.Time) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	asked = asked.Round(0)
	at := c.look(asked.Add(took))
	// The database read its clock at some moment in between.
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
		// It stays while the clocks run side by side, so that a time that is read and
		// written back is the same.
		if abs(c.offset-time.Duration(c.shift.Load())) > time.Second {
			c.shift.Store(int64(c.offset))
		}
	} else {
		c.shift.Store(0)
		c.agreedAt = at
		if was && c.jump != 0 {
			// It was wrong, jumped, and is right: somebody has set it.
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

// changed publishes the state.
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

// Confirmed is the latest wall-clock time up to now at which the database's clock
// agreed and no jump was seen: what was over then is over. False while the clock
// is off, and before the database was asked.
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

// Steady is a time of the wall clock, as it runs now, on a time line without
// jumps. What is to happen in an hour happens in an hour by it.
func (c *Clock) Steady(wall time.Time) time.Time {
	if c == nil {
		return wall
	}
	return wall.Add(time.Duration(c.skew.Load()))
}

func abs(d time.Duration) time.Duration { return max(d, -d) }
