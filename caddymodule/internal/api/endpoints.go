package api

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/remedy"
)

// endpoint describes one path under the prefix.
type endpoint struct {
	methods []string // nil: all
	serve   func(*call) error
	closed  bool // works without the store
	tokens  bool // needs only the keys
	prompt  bool // does not wait for a store that is not open
	service bool // for the backend, with the service key
	// counts counts a refusal. Nil means that it is counted by its code.
	counts func(*call, problem.Code)
	// configured reports whether the endpoint exists for the id at the end of the path.
	// Nil means that it exists for all.
	configured func(s *Server, id string) bool
}

// endpoints lists the endpoints by their path under the prefix. A path that ends in a
// slash is followed by an id.
var endpoints = map[string]endpoint{
	"":           {methods: post, serve: (*call).login, closed: true, counts: (*call).countLogin},
	"/refresh":   {methods: post, serve: (*call).refresh, counts: (*call).countRefresh},
	"/logout":    {methods: post, serve: (*call).logout},
	"/phone":     {methods: post, serve: (*call).changePhone},
	"/me":        {methods: get, serve: (*call).me},
	"/sessions":  {methods: get, serve: (*call).listSessions},
	"/sessions/": {methods: []string{http.MethodDelete}, serve: (*call).endSession},
	"/verify":    {serve: (*call).verify, closed: true, tokens: true},
	"/jwks.json": {methods: get, serve: (*call).jwks, tokens: true},
	"/push/":     {methods: []string{http.MethodGet, http.MethodPost}, serve: (*call).push, closed: true, configured: (*Server).takesPushes},

	"/health":       {methods: look, serve: (*call).health, closed: true, prompt: true},
	"/health/live":  {methods: look, serve: (*call).healthLive, closed: true, prompt: true},
	"/health/ready": {methods: look, serve: (*call).healthReady, closed: true, prompt: true},

	"/service/revoke":     {methods: post, serve: (*call).revoke, service: true},
	"/service/users":      {methods: get, serve: (*call).listUsers, service: true},
	"/service/users/find": {methods: post, serve: (*call).findUser, service: true},
	"/service/users/":     {methods: []string{http.MethodGet, http.MethodPatch, http.MethodDelete}, serve: (*call).serviceUser, service: true},
}

// An export's path has the user's id in its middle.
const usersPath, exportSuffix = "/service/users/", "/export"

var (
	get  = []string{http.MethodGet}
	post = []string{http.MethodPost}
	look = []string{http.MethodGet, http.MethodHead}
)

// Route says which path below the prefix a request is for.
type Route struct {
	rest string // the path after the prefix, as it was sent
	// Verify means that a proxy asks about a request for another service.
	Verify bool
	// Quiet keeps the request out of the access log, because its path or its answer is about a
	// person. Our own log lines say what was done.
	Quiet bool
	// aliased means that some backends would take a header of the request for one of
	// our identity headers. It is set only if Verify is.
	aliased bool
	// claimed are the names under which the client claims an identity, and overclaimed means
	// that there are too many of them. They are set only if Verify is.
	claimed     []string
	overclaimed bool
}

// Route returns where a request goes, and whether it is below the prefix at all. The
// prefix must match byte for byte. Everything below it belongs to us, known endpoint or
// not. Route must be called before the gate, which removes some of the headers that it
// looks at.
func (s *Server) Route(r *http.Request) (Route, bool) {
	if r.URL.Opaque != "" {
		return Route{}, false
	}
	switch r.URL.Scheme {
	case "", "http", "https":
	default: // such as "POST x:/auth/wx"
		return Route{}, false
	}
	rest, ok := strings.CutPrefix(r.URL.EscapedPath(), s.Prefix)
	if !ok || rest != "" && rest[0] != '/' {
		return Route{}, false
	}
	to := Route{rest: rest, Verify: isVerify(rest)}
	to.Quiet = to.Verify || strings.HasPrefix(rest, "/service/")
	if to.Verify {
		sent := sentNames(r)
		names, few := s.claimed(sent)
		to.aliased, to.claimed, to.overclaimed = s.aliased(sent), names, !few
	}
	return to, true
}

// find returns the endpoint of a route, and the id at its end. One trailing slash is
// accepted.
func (s *Server) find(to Route) (e endpoint, id string, ok bool) {
	if to.Verify {
		return endpoints["/verify"], "", true
	}
	if to.rest == usersPath {
		// Without the id, this path would list all users: a backend that has lost an id must
		// not get everybody.
		return endpoint{}, "", false
	}
	path := strings.TrimSuffix(to.rest, "/")
	if of, ok := strings.CutSuffix(path, exportSuffix); ok && len(of) > len(usersPath) && strings.LastIndexByte(of, '/')+1 == len(usersPath) && strings.HasPrefix(of, usersPath) {
		return endpoint{methods: get, serve: (*call).exportUser, service: true}, of[len(usersPath):], true
	}
	if e, ok := endpoints[path]; ok && !strings.HasSuffix(path, "/") {
		return e, "", true
	}
	cut := strings.LastIndexByte(path, '/') + 1
	e, ok = endpoints[path[:cut]]
	id = path[cut:]
	return e, id, ok && cut > 0 && id != "" && (e.configured == nil || e.configured(s, id))
}

// call is one request to one of our endpoints.
type call struct {
	*Server
	w     http.ResponseWriter
	r     *http.Request
	route Route
	id    string // at the end of the path, if any
	now   time.Time
	// testSecret is the secret in the body of a test login.
	testSecret string
	*Opened

	counts func(*call, problem.Code)
	tried  attempted // if it is a login
}

// Serve answers a request under our prefix; the upstream never sees it.
func (s *Server) Serve(w http.ResponseWriter, r *http.Request, to Route) error {
	c := &call{Server: s, w: w, r: r, route: to, now: time.Now()}
	e, id, ok := s.find(to)
	if !ok || e.service && s.ServiceKey == nil {
		return c.refuse(problem.New(problem.NotFound))
	}
	c.id = id
	if e.methods != nil && !slices.Contains(e.methods, r.Method) {
		p := problem.New(problem.MethodNotAllowed)
		p.Allow = strings.Join(e.methods, ", ")
		return c.refuse(p)
	}
	c.counts = e.counts
	if e.service {
		if p := c.checkServiceKey(); p != nil {
			return c.refuse(p)
		}
	}
	if !e.prompt {
		c.Opened = s.Opening.Ready(r.Context())
	}
	if !e.tokens && !s.Opening.Recorded() {
		c.Opened = nil
	}
	if c.Opened == nil && !e.closed {
		p := s.unopened()
		if strings.Trim(to.rest, "/") == "phone" { // the client may send the same code again
			p = p.WithRenew(nil)
		}
		return c.refuse(p)
	}
	return c.guarded(e.serve)
}

// unopened returns the answer of an endpoint that needs the store while it is not open.
func (s *Server) unopened() *problem.Problem {
	if s.Opening.Misconfigured() {
		return problem.New(problem.Misconfigured)
	}
	return problem.New(problem.StoreUnavailable)
}

// guarded turns a panic in an endpoint into a 500.
func (c *call) guarded(serve func(*call) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				panic(p) // http.ErrAbortHandler makes net/http end the connection
			}
			err = c.refuse(c.Panicked("panic in an endpoint", p, c.about()...))
		}
	}()
	return serve(c)
}

// Panicked counts and logs a panic, and returns the answer: a 500 without details. The
// log contains the stack, but not the value of the panic, which may contain a client's
// input.
func (s *Server) Panicked(where string, p any, fields ...zap.Field) *problem.Problem {
	s.Metrics.Panic()
	s.Log.Error(where, append(fields, zap.String("kind", fmt.Sprintf("%T", p)), remedy.Bug.Field(remedyBug), zap.Stack("stack"))...)
	return problem.New(problem.InternalError)
}
