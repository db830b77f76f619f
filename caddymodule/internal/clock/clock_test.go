package clock

import (
	"context"
	"testing"
	"time"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

// bench is a Clock together with the wall clock, monotonic clock and database that a
// test moves.
type bench struct {
	*Clock
	real  time.Duration // the time that has really passed
	wrong time.Duration // error of the wall clock
	base  time.Duration // error of the database's clock
	away  bool          // the database does not answer
}

func newBench() *bench {
	b := new(bench)
	b.Clock = newClock(func() time.Duration { return b.real })
	return b
}

func (b *bench) wall() time.Time { return start.Add(b.real + b.wrong) }

// runs lets time pass as Feed.Run does: a tick each 250 ms and a poll each second. Times of up to
// ten minutes pass in steps of a second, longer ones in steps of 20 seconds.
func (b *bench) runs(d time.Duration) {
	step := time.Second
	if d > 10*time.Minute {
		step = 20 * time.Second
	}
	for end := b.real + d; b.real < end; b.real += step {
		b.Tick(b.wall())
		if !b.away {
			b.Compare(b.wall(), 3*time.Millisecond, start.Add(b.real+b.base))
		}
	}
}

// Clocks jump and drift in many ways. After each event the clock must be reported as off or as
// trusted. Revocations must never be swept by a time that has not really come.
func TestClockJumpsAndDrifts(t *testing.T) {
	type event struct {
		name  string
		wrong time.Duration // of the wall clock from here on
		base  time.Duration // of the database's clock
		away  bool
		lasts time.Duration
		off   bool // expected at the end of the event
	}
	tests := []struct {
		name   string
		events []event
	}{
		{"all is well", []event{{"", 0, 0, false, time.Hour, false}}},
		{"half a minute apart is well", []event{{"", 30 * time.Second, 0, false, time.Hour, false}}},
		{"wrong from the start", []event{{"", 200 * day, 0, false, time.Hour, true}, {"set right", 0, 0, false, time.Minute, false}}},
		{"behind from the start", []event{{"", -200 * day, 0, false, time.Hour, true}, {"set right", 0, 0, false, time.Minute, false}}},
		{"a day ahead and back", []event{{"", 0, 0, false, time.Minute, false}, {"ahead", day, 0, false, 2 * time.Minute, true}, {"back", 0, 0, false, time.Minute, false}}},
		{"a day ahead and back, with the database", []event{{"", 0, 0, false, time.Minute, false}, {"ahead", day, day, false, 2 * time.Minute, true}, {"back", 0, 0, false, time.Minute, false}}},
		{"ahead for good, with the database", []event{{"", 0, 0, false, time.Minute, false}, {"ahead", day, day, false, 50 * time.Minute, true}, {"trusted", day, day, false, 20 * time.Minute, false}}},
		{"ahead for good, without a database", []event{{"", 0, 0, false, time.Minute, false}, {"ahead", day, 0, true, 3 * time.Hour, true}}},
		{"back for good", []event{{"", 0, 0, false, time.Minute, false}, {"back", -2 * day, -2 * day, false, 50 * time.Minute, true}, {"trusted", -2 * day, -2 * day, false, 20 * time.Minute, false}}},
		{"ahead, further, back", []event{{"", 0, 0, false, time.Minute, false}, {"ahead", day, day, false, 50 * time.Minute, true}, {"further", 3 * day, 3 * day, false, 50 * time.Minute, true},
			{"back", 0, 0, false, time.Minute, false}}},
		{"a small step", []event{{"", 0, 0, false, time.Minute, false}, {"", 20 * time.Second, 20 * time.Second, false, time.Hour, false}}},
		{"only the database jumps", []event{{"", 0, 0, false, time.Minute, false}, {"", 0, day, false, time.Minute, true}, {"", 0, 0, false, time.Minute, false}}},
		{"while the database is away", []event{{"", 0, 0, false, time.Minute, false}, {"", day, 0, true, time.Minute, true}, {"", 0, 0, true, time.Minute, false}}},
		{"the machine starts wrong and NTP sets it", []event{{"", -20 * 365 * day, 0, false, time.Minute, true}, {"set", 0, 0, false, time.Second, false}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench()
			generation, off := b.State().Generation, false
			for i, e := range tt.events {
				b.wrong, b.base, b.away = e.wrong, e.base, e.away
				b.Tick(b.wall())
				b.runs(e.lasts)
				s := b.State()
				if s.Off != e.off {
					t.Fatalf("%d %s: %+v", i, e.name, s)
				}
				if s.Off != off && s.Generation == generation {
					t.Errorf("%d %s: the state has changed and its generation has not", i, e.name)
				}
				generation, off = s.Generation, s.Off
				to, ok := b.Confirmed(b.wall())
				if ok == s.Off || ok && to.After(b.wall()) {
					t.Errorf("%d %s: confirmed %v, %v at %v", i, e.name, to, ok, b.wall())
				}
			}
		})
	}
}

// The first tick after a jump detects it. Nothing may be swept by the new time before
// the database has been asked.
func TestNoSweepBetweenAJumpAndAPoll(t *testing.T) {
	b := newBench()
	b.runs(time.Minute)
	before := b.wall()
	b.wrong = day
	b.Tick(b.wall())
	if to, ok := b.Confirmed(b.wall()); ok {
		t.Errorf("to %v", to)
	}
	b.wrong = 0
	b.Tick(b.wall())
	if to, ok := b.Confirmed(b.wall()); !ok || to.After(before) {
		t.Errorf("to %v, %v; want at most %v", to, ok, before)
	}
	// The clock jumps and jumps back between two ticks.
	if to, ok := b.Confirmed(b.wall().Add(day)); !ok || to.After(before) {
		t.Errorf("to %v, %v; want at most %v", to, ok, before)
	}
}

// NTP slews a clock by up to 500 parts in a million. However long it takes, that is not
// a jump.
func TestSlowDriftIsNoJump(t *testing.T) {
	b := newBench()
	for range 3 * 24 * 60 {
		b.runs(time.Minute)
		b.wrong += 30 * time.Millisecond
		b.base = b.wrong
		if s := b.State(); s.Off {
			t.Fatalf("after %v: %+v", b.real, s)
		}
	}
}

// Times are translated to the database's clock only while the two clocks disagree.
func TestShiftIsTheDatabasesClock(t *testing.T) {
	b := newBench()
	b.wrong = 30 * time.Second
	b.runs(time.Second)
	if d := b.Shift(); d != 0 {
		t.Errorf("half a minute apart: %v", d)
	}
	b.wrong = -200 * day
	b.runs(3 * time.Second)
	if d := b.wall().Add(b.Shift()).Sub(start.Add(b.real)).Abs(); d > time.Second {
		t.Errorf("200 days behind: translated times are wrong by %v", d)
	}
	b.wrong = 0
	b.runs(3 * time.Second)
	if d := b.Shift(); d != 0 {
		t.Errorf("set right: %v", d)
	}
}

// A deadline in an hour comes after an hour, whatever the wall clock does.
func TestSteadyTimesDoNotJump(t *testing.T) {
	b := newBench()
	b.runs(time.Minute)
	end := b.Steady(b.wall().Add(time.Hour))
	for _, wrong := range []time.Duration{day, -day, 200 * day, 0} {
		b.wrong = wrong
		b.runs(5 * time.Minute)
		b.Tick(b.wall())
		left, want := end.Sub(b.Steady(b.wall())), time.Hour+time.Minute-b.real
		if (left - want).Abs() > 2*time.Second {
			t.Errorf("wrong by %v: %v left, want %v", wrong, left, want)
		}
	}
	// A connection opens while the clock is wrong, and lasts as long as its token.
	b.wrong = day
	b.Tick(b.wall())
	end, begun := b.Steady(b.wall().Add(time.Hour)), b.real
	b.wrong = 0
	b.runs(10 * time.Minute)
	b.Tick(b.wall())
	if left, want := end.Sub(b.Steady(b.wall())), time.Hour-(b.real-begun); (left - want).Abs() > 2*time.Second {
		t.Errorf("%v left, want %v", left, want)
	}
}

// A database takes seconds to answer. That must not make our clock look wrong.
func TestSlowAnswerIsNoDisagreement(t *testing.T) {
	b := newBench()
	for _, when := range []time.Duration{0, 2 * time.Minute, 4 * time.Minute} {
		asked := b.wall()
		b.real += 4 * time.Minute
		b.Compare(asked, 4*time.Minute, asked.Add(when))
		if s := b.State(); s.Off {
			t.Errorf("read after %v of four minutes: %+v", when, s)
		}
	}
}

// A nil Clock trusts the wall clock.
func TestNoClockTrustsTheWallClock(t *testing.T) {
	var c *Clock
	c.Tick(start)
	c.Compare(start, 0, start.Add(day))
	if to, ok := c.Confirmed(start); !ok || !to.Equal(start) || c.State().Off || c.Shift() != 0 || !c.Steady(start).Equal(start) || !c.Database(start).Equal(start) {
		t.Error("a nil clock does not trust the wall clock")
	}
}

// A configuration that stops must not wait for the next round of its loops.
func TestSleepEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if Sleep(ctx, time.Hour) {
		t.Error("it slept to the end")
	}
	if !Sleep(t.Context(), 0) {
		t.Error("it did not sleep to the end")
	}
}
