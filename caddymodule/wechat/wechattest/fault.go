package wechattest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Kind is a way in which a call goes wrong.
type Kind string

// These are the faults. All but Delay replace the answer.
const (
	Delay     Kind = "delay"     // the answer takes [Fault.Delay] longer, or until Hold is closed
	Reset     Kind = "reset"     // the request is read, then the connection is reset (RST)
	Close     Kind = "close"     // the request is read, then the connection is closed normally (FIN)
	Status    Kind = "status"    // [Fault.Status], by default 502, with the HTML page of an edge server
	HTML      Kind = "html"      // 200 with a page of HTML
	Empty     Kind = "empty"     // 200 with an empty body
	Truncated Kind = "truncated" // 200 with the first half of the JSON
	Cut       Kind = "cut"       // the connection ends in the middle of the announced body
	Dirty     Kind = "dirty"     // the good answer with a byte-order mark and control characters
	Oversized Kind = "oversized" // 10 MB of valid JSON
	Endless   Kind = "endless"   // a body that goes on until the client hangs up
	Redirect  Kind = "redirect"  // [Fault.Status], by default 302, to [Fault.Location]
	Errcode   Kind = "errcode"   // the business error [Fault.Errcode], by default -1
)

var kinds = []Kind{Delay, Reset, Close, Status, HTML, Empty, Truncated, Cut, Dirty, Oversized, Endless, Redirect, Errcode}

// Fault makes calls fail. Faults are used up in the order in which they were injected,
// and a call meets at most one of them.
type Fault struct {
	// Call is the call that the fault strikes; empty: any.
	Call Call `json:"call"`
	// Code, if not empty, limits the fault to calls whose one-time code begins with it: to one
	// client's codes among others.
	Code string `json:"code"`
	// Kind is the kind of failure.
	Kind Kind `json:"kind"`
	// Count is the number of calls that the fault strikes: 0 means one, a negative number
	// means all of them.
	Count int `json:"count"`
	// Skip is the number of calls that pass before the fault strikes.
	Skip int `json:"skip"`
	// Late carries the call out before the fault strikes: codes are consumed and tokens
	// rotated, but the client does not learn of it. Without Late the call is not carried out.
	// Dirty is always late, because it needs the good answer.
	Late bool `json:"late"`
	// Delay is how long the client waits before the fault strikes. The wait ends when
	// the client hangs up; a call that is not late is then never carried out.
	Delay time.Duration `json:"-"`
	// Hold, if not nil, makes the client wait in the same way until the channel is closed.
	Hold <-chan struct{} `json:"-"`
	// Status is the HTTP status of Status and Redirect.
	Status int `json:"status"`
	// Location is the target of Redirect. The default is a path of this simulator, and calls
	// to it are counted as [Redirected].
	Location string `json:"location"`
	// Errcode and Errmsg are the answer of the kind Errcode. By default Errmsg is WeChat's
	// text with a rid; a given text is sent unchanged.
	Errcode int    `json:"errcode"`
	Errmsg  string `json:"errmsg"`
}

// UnmarshalJSON reads a fault with its delay as text, such as "1.5s". Members that a
// fault does not have are refused.
func (f *Fault) UnmarshalJSON(data []byte) error {
	type plain Fault
	wire := struct {
		*plain
		Delay string `json:"delay"`
	}{plain: (*plain)(f)}
	if err := decodeStrictly(data, &wire); err != nil {
		return err
	}
	if wire.Delay == "" {
		return nil
	}
	d, err := time.ParseDuration(wire.Delay)
	f.Delay = d
	return err
}

// MarshalJSON is the reverse of UnmarshalJSON.
func (f Fault) MarshalJSON() ([]byte, error) {
	type plain Fault
	return json.Marshal(struct {
		plain
		Delay string `json:"delay"`
	}{plain(f), f.Delay.String()})
}

// Inject makes future calls fail. It returns an error that names the call or the kind if there
// is none of that name.
func (s *Simulator) Inject(f Fault) error {
	known := f.Call == "" || f.Call == Elsewhere
	for _, e := range endpoints {
		known = known || e.call == f.Call
	}
	if !known {
		return fmt.Errorf("fault: no call is named %q", f.Call)
	}
	if !slices.Contains(kinds, f.Kind) {
		return fmt.Errorf("fault: no kind is named %q", f.Kind)
	}
	if f.Status != 0 && (f.Status < 200 || f.Status > 599) {
		return fmt.Errorf("fault: %d is not the status of an answer", f.Status)
	}
	if f.Delay < 0 || f.Skip < 0 {
		return fmt.Errorf("fault: delay and skip cannot be negative")
	}
	if f.Count == 0 {
		f.Count = 1
	}
	if f.Kind == Errcode && f.Errcode == 0 {
		f.Errcode = -1
	}
	f.Late = f.Late || f.Kind == Dirty
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &f)
	return nil
}

// ClearFaults removes all faults that are not used up.
func (s *Simulator) ClearFaults() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// takeFault returns the fault that strikes this call, or nil.
func (s *Simulator) takeFault(req *request) *Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, f := range s.faults {
		if f.Call != "" && f.Call != req.call {
			continue
		}
		if f.Code != "" && !strings.HasPrefix(req.code(), f.Code) {
			continue
		}
		if f.Skip > 0 {
			f.Skip--
			continue
		}
		if f.Count > 0 {
			f.Count--
		}
		taken := *f
		if f.Count == 0 {
			s.faults = slices.Delete(s.faults, i, i+1)
		}
		return &taken
	}
	return nil
}
