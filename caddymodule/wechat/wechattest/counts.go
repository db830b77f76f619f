package wechattest

import "maps"

// Count is the number of calls. Outcomes counts the answers: "ok", an errcode such as
// "40029", "412", the kind of a fault ("reset", or "reset late" if the call was carried
// out first), or "gone" if the client hung up during a delay before the call was
// carried out. Total includes calls that are still being answered.
type Count struct {
	Total    int            `json:"total"`
	Outcomes map[string]int `json:"outcomes"`
}

// Count returns the number of such calls since the start or the last
// [Simulator.ResetCounts].
func (s *Simulator) Count(call Call) Count {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.counts[call]
	if c == nil {
		return Count{}
	}
	return Count{c.Total, maps.Clone(c.Outcomes)}
}

// Counts returns the counts of all calls that were made.
func (s *Simulator) Counts() map[Call]Count {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[Call]Count, len(s.counts))
	for call, c := range s.counts {
		all[call] = Count{c.Total, maps.Clone(c.Outcomes)}
	}
	return all
}

// ResetCounts sets all counts to zero. Codes, tokens and quotas stay.
func (s *Simulator) ResetCounts() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.counts)
}

func (s *Simulator) arrived(call Call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.countOf(call).Total++
}

func (s *Simulator) ended(call Call, outcome string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.countOf(call).Outcomes[outcome]++
}

func (s *Simulator) countOf(call Call) *Count {
	c := s.counts[call]
	if c == nil {
		c = &Count{Outcomes: make(map[string]int)}
		s.counts[call] = c
	}
	return c
}
