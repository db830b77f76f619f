package wechattest

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"
)

// ErrUnknownApp is what methods answer for an appid that [Simulator.AddApp]
// was never given.
var ErrUnknownApp = errors.New("unknown appid")

// Call names one of the simulator's endpoints.
type Call string

// The calls of a phone login, and what else is counted.
const (
	Code2Session Call = "jscode2session"     // GET /sns/jscode2session
	StableToken  Call = "stable_token"       // POST /cgi-bin/stable_token
	ClassicToken Call = "token"              // GET /cgi-bin/token
	PhoneNumber  Call = "getuserphonenumber" // POST /wxa/business/getuserphonenumber
	CentralToken Call = "central_token"      // GET /central/token, a company's own
	Redirected   Call = "redirected"         // where a [Redirect] fault leads: nobody should come
	Elsewhere    Call = "elsewhere"          // any path that is no call
)

// Options are the settings of a [Simulator]. The zero value is usable.
type Options struct {
	// Now is the clock; time.Now if nil. [Simulator.Advance] adds to it.
	Now func() time.Time
	// Apps are registered from the start; [Simulator.AddApp] adds more.
	Apps []App
}

// Simulator plays WeChat's API servers. It is safe for concurrent use, and its
// memory is its own: two simulators share nothing.
type Simulator struct {
	clock   func() time.Time
	control http.Handler

	mu         sync.Mutex // guards all that follows
	offset     time.Duration
	apps       map[string]*appState
	logins     map[string]*loginCode
	phones     map[string]*PhoneCode
	phoneOrder []*PhoneCode
	tokens     map[string]*accessToken
	faults     []*Fault
	counts     map[Call]*Count
	secrets    map[string]struct{}

	requestLine int    // the longest that the edge takes; 0: any
	mockUser    string // whom MockCode stands for; empty: nobody
}

// New makes a simulator. It panics if one of the apps is not valid, as that is
// a mistake in the test.
func New(opts Options) *Simulator {
	s := &Simulator{
		clock:  opts.Now,
		apps:   make(map[string]*appState),
		logins: make(map[string]*loginCode),
		phones: make(map[string]*PhoneCode),
		tokens: make(map[string]*accessToken),
		counts: make(map[Call]*Count),

		secrets: make(map[string]struct{}),
	}
	if s.clock == nil {
		s.clock = time.Now
	}
	s.control = s.controlMux()
	for _, a := range opts.Apps {
		if err := s.AddApp(a); err != nil {
			panic(fmt.Sprintf("wechattest: %v", err))
		}
	}
	return s
}

// Now is the simulator's time: its clock and all that [Simulator.Advance]
// added.
func (s *Simulator) Now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now()
}

// Advance moves the simulator's time forward by d.
func (s *Simulator) Advance(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.offset += d
}

func (s *Simulator) now() time.Time { return s.clock().Add(s.offset) }

// Secrets are all the values this simulator knows that must never stand in a
// log, an error or a metric: app secrets, codes, access tokens, session keys
// and phone numbers, sorted. A test searches the output of a program for them.
func (s *Simulator) Secrets() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.secrets))
}

func (s *Simulator) keepSecret(v string) {
	s.secrets[v] = struct{}{}
}
