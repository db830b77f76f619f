package ratelimit

import "time"

const (
	slots    = 6
	slotSpan = time.Minute / slots
)

// successes counts the successes of the last minute, in slots of ten seconds.
type successes struct {
	slots [slots]int32
	last  int64 // number of the newest slot since 1970
}

func (s *successes) add(now time.Time) {
	s.advance(now)
	s.slots[s.last%slots]++
}

func (s *successes) count(now time.Time) (n int) {
	if s == nil {
		return 0
	}
	s.advance(now)
	for _, c := range s.slots {
		n += int(c)
	}
	return n
}

// advance empties the slots that are over. A clock that is set back a little changes
// nothing. After a jump, ahead or back, all counts are dropped: otherwise those made
// while the clock was ahead would count until it gets there again.
func (s *successes) advance(now time.Time) {
	current := now.UnixNano() / int64(slotSpan)
	if d := current - s.last; d >= slots || d <= -slots {
		s.slots, s.last = [slots]int32{}, current
	}
	for s.last < current {
		s.last++
		s.slots[s.last%slots] = 0
	}
}
