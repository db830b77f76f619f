package caddymodule

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/gate"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
)

// call is a request to one of our endpoints.
type call struct {
	w    http.ResponseWriter
	r    *http.Request
	site *site
	live *live
	now  time.Time
	id   string // the last segment of /sessions/{id}, and of others
	// aliased: a header of the request looks like one of our identity headers to some
	// backends. Known for /verify only.
	aliased bool
}

// endpoint is what one path under the prefix does.
type endpoint struct {
	methods []string // nil: any
	serve   func(*call) error
	closed  bool // works without the store, too
	tokens  bool // needs the keys and no more
	prompt  bool // does not wait for the store
	service bool // for the backend, with the service key
	// configured says whether there is one for the id at the path's end; nil: for any.
	configured func(s *site, id string) bool
}

// endpoints by their path under the prefix.
var endpoints = map[string]endpoint{
	"":           {methods: []string{http.MethodPost}, serve: (*call).login},
	"/refresh":   {methods: []string{http.MethodPost}, serve: (*call).refresh},
	"/logout":    {methods: []string{http.MethodPost}, serve: (*call).logout},
	"/me":        {methods: []string{http.MethodGet}, serve: (*call).me},
	"/sessions":  {methods: []string{http.MethodGet}, serve: (*call).listSessions},
	"/sessions/": {methods: []string{http.MethodDelete}, serve: (*call).endSession},
	"/verify":    {serve: (*call).verify, closed: true, tokens: true},
	"/jwks.json": {methods: []string{http.MethodGet}, serve: (*call).jwks, tokens: true},
	"/health":    {methods: []string{http.MethodGet, http.MethodHead}, serve: (*call).health, closed: true, prompt: true},
	"/push/":     {methods: []string{http.MethodGet, http.MethodPost}, serve: (*call).push, closed: true, configured: (*site).takesPushes},

	"/health/live":  {methods: []string{http.MethodGet, http.MethodHead}, serve: (*call).healthLive, closed: true, prompt: true},
	"/health/ready": {methods: []string{http.MethodGet, http.MethodHead}, serve: (*call).healthReady, closed: true, prompt: true},

	"/service/revoke": {methods: []string{http.MethodPost}, serve: (*call).revoke, service: true},
	"/service/users/": {methods: []string{http.MethodGet, http.MethodPatch, http.MethodDelete}, serve: (*call).serviceUser, service: true},
}

// below are the endpoints whose path ends in somebody's or something's id.
var below = []string{"/sessions/", "/push/", "/service/users/"}

// underPrefix returns what follows our prefix in the path as it was sent, and
// whether the path is under it. The prefix must match byte
// for byte. Everything below it belongs to us, known endpoint or not.
func (s *site) underPrefix(r *http.Request) (string, bool) {
	if r.URL.Opaque != "" {
		return "", false
	}
	switch r.URL.Scheme {
	case "", "http", "https":
	default: // "POST x:/auth/wx"
		return "", false
	}
	rest, ok := strings.CutPrefix(r.URL.EscapedPath(), s.set.Endpoints)
	if !ok {
		return "", false
	}
	return rest, rest == "" || rest[0] == '/'
}

// serveEndpoint answers a request under our prefix; the upstream never sees it.
func (s *site) serveEndpoint(w http.ResponseWriter, r *http.Request, rest string, aliased bool) error {
	c := &call{w: w, r: r, site: s, now: time.Now(), aliased: aliased}
	e, ok := c.find(rest)
	if !ok || e.service && s.set.Service == nil {
		return refuse(w, r, problem.New(problem.NotFound))
	}
	if e.methods != nil && !allowed(e.methods, r.Method) {
		p := problem.New(problem.MethodNotAllowed)
		p.Allow = strings.Join(e.methods, ", ")
		return refuse(w, r, p)
	}
	if e.service {
		if p := c.serviceKey(); p != nil {
			return refuse(w, r, p)
		}
	}
	if !e.prompt {
		c.live = s.ready(r.Context())
	}
	if !e.tokens && !s.recorded.Load() {
		c.live = nil // it may be another directory's store
	}
	if c.live == nil && !e.closed {
		return refuse(w, r, withRenewFor(rest, s.unopened()))
	}
	return c.guarded(e.serve)
}

// panicked counts and logs a panic, and returns the answer: a 500 without
// details. The log has the stack, but not the panic's own words: those may be a
// client's.
func (s *site) panicked(where string, p any) *problem.Problem {
	s.metrics.panics.Inc()
	s.log.Error(where, zap.String("kind", fmt.Sprintf("%T", p)), zap.Stack("stack"))
	return problem.New(problem.InternalError)
}

// guarded turns a panic of an endpoint's into a 500.
func (c *call) guarded(serve func(*call) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				panic(p) // net/http's own way to end a connection
			}
			err = refuse(c.w, c.r, c.site.panicked("panic in an endpoint", p))
		}
	}()
	return serve(c)
}

// find returns the endpoint of a path under the prefix. One trailing slash is
// accepted.
func (c *call) find(rest string) (endpoint, bool) {
	if isVerify(rest) {
		return endpoints["/verify"], true
	}
	rest = strings.TrimSuffix(rest, "/")
	for _, path := range below {
		if id, ok := strings.CutPrefix(rest, path); ok {
			c.id = id
			e := endpoints[path]
			return e, id != "" && !strings.Contains(id, "/") && (e.configured == nil || e.configured(c.site, id))
		}
	}
	e, ok := endpoints[rest]
	return e, ok
}

func allowed(methods []string, method string) bool {
	for _, m := range methods {
		if m == method {
			return true
		}
	}
	return false
}

// withRenewFor shows an empty renew if the endpoint is the login's: send the
// same again.
func withRenewFor(rest string, p *problem.Problem) *problem.Problem {
	if strings.Trim(rest, "/") == "" {
		return p.WithRenew(nil)
	}
	return p
}

// caller returns what the request's token says, or the refusal.
func (c *call) caller() (*token.Identity, *problem.Problem) {
	v := c.site.gate.Authenticate(c.r, c.now)
	if v.Refusal != nil {
		return nil, v.Refusal
	}
	return v.Caller, nil
}

// formerCaller is caller for logging out: a token that has expired, or whose
// session has ended, still says whose it is.
func (c *call) formerCaller() (*token.Identity, *problem.Problem) {
	cred, refusal := c.site.gate.Credential(c.r)
	if refusal == nil && cred.Kind == gate.Bearer && !cred.Malformed {
		if caller, err := c.live.verifier.VerifyExpired(c.site.keys(), cred.Token, c.now); err == nil {
			return caller, nil
		}
	}
	return c.caller()
}
