package gate

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Rule names requests that need no token.
type Rule struct {
	// Methods that the rule is for. Of a public rule, empty means GET and
	// HEAD. An optional rule is for every method and names none.
	Methods []string `json:"methods,omitempty"`
	// Path is compared with the decoded path, case-sensitively: "/health" is
	// that path only, "/docs/*" is "/docs/" and all below it, not "/docs".
	Path string `json:"path"`
}

// ParsePublic reads the arguments of public: methods, if any, then one path or
// more. The error says what to write instead.
func ParsePublic(args []string) ([]Rule, error) {
	n := slices.IndexFunc(args, func(a string) bool { return a == "" || a[0] == '/' || a[0] == '*' })
	if n < 0 {
		if len(args) == 0 {
			return nil, errors.New("public names no path; write: public /health /docs/*")
		}
		if slices.ContainsFunc(args, func(a string) bool { return !isMethod(a) }) {
			return nil, fmt.Errorf("public: %q is neither a path nor a method; paths begin with \"/\", methods are in capitals", args[0])
		}
		return nil, fmt.Errorf("public names methods but no path; write: public %s /hooks/*", strings.Join(args, " "))
	}
	var rules []Rule
	for _, path := range args[n:] {
		r := Rule{Path: path}
		if n > 0 {
			r.Methods = slices.Clone(args[:n])
		}
		if err := r.checkPublic(); err != nil {
			return nil, err
		}
		rules = append(rules, r)
	}
	return rules, nil
}

// ParseOptional reads the arguments of optional: one path or more. The error
// says what to write instead.
func ParseOptional(args []string) ([]Rule, error) {
	if len(args) == 0 {
		return nil, errors.New("optional names no path; write: optional /articles/*")
	}
	var rules []Rule
	for _, path := range args {
		if isMethod(path) {
			return nil, fmt.Errorf("optional takes no method, it is for all of them; write: optional /articles/* (not %q)", path)
		}
		r := Rule{Path: path}
		if err := r.checkOptional(); err != nil {
			return nil, err
		}
		rules = append(rules, r)
	}
	return rules, nil
}

func (r Rule) checkPublic() error {
	if r.Path == "*" || r.Path == "/*" {
		return fmt.Errorf("public %s: every path would be open to everybody; name the open ones (public /health /docs/*), "+
			"or say with a matcher what to protect (wx_auth /api/* …)", r.Path)
	}
	for _, m := range r.Methods {
		switch {
		case !isMethod(m):
			return fmt.Errorf("public %s: %q is not a method; write methods in capitals, before the paths: public GET POST /hooks/*", r.Path, m)
		case m == http.MethodTrace:
			return fmt.Errorf("public %s: TRACE is never let through; leave it out", r.Path)
		}
	}
	if err := checkPattern(r.Path); err != nil {
		return fmt.Errorf("public %s: %w", r.Path, err)
	}
	return nil
}

func (r Rule) checkOptional() error {
	if r.Path == "*" {
		return errors.New("optional *: paths begin with \"/\"; write /* for all of them")
	}
	if len(r.Methods) > 0 {
		return fmt.Errorf("optional %s: optional takes no method, it is for all of them", r.Path)
	}
	if err := checkPattern(r.Path); err != nil {
		return fmt.Errorf("optional %s: %w", r.Path, err)
	}
	return nil
}

// checkPattern refuses what can match no canonical path, or would not match
// what its writer means.
func checkPattern(pattern string) error {
	if !strings.HasPrefix(pattern, "/") {
		return errors.New("paths begin with \"/\"")
	}
	path, wild := strings.CutSuffix(pattern, "*")
	if wild && !strings.HasSuffix(path, "/") {
		return fmt.Errorf("\"*\" follows a \"/\"; write %s/* for all below %s, or name the paths", path, path)
	}
	if strings.Contains(path, "*") {
		return errors.New("\"*\" stands at the end only, as in /docs/*; name the paths one by one")
	}
	if strings.ContainsAny(path, "{}") {
		return errors.New("a path takes no placeholder but {$NAME}; write it out")
	}
	escaped := (&url.URL{Path: path}).EscapedPath()
	if Canonical(escaped) {
		return nil
	}
	if decoded, err := url.PathUnescape(path); err == nil && decoded != path {
		if Canonical((&url.URL{Path: decoded}).EscapedPath()) {
			return fmt.Errorf("paths are compared decoded; write %q", decoded)
		}
	}
	return errors.New("no request with such a path goes on without a token: it has an empty or a dots-only segment, " +
		"or one of ; % \\ ? # or a control character, which upstreams read in different ways; name another path")
}

// isMethod reports whether s can be a method as methods are written here: they
// are case-sensitive, and those in use are in capitals.
func isMethod(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'A' || c > 'Z') && c != '-' && c != '_' {
			return false
		}
	}
	return s != ""
}

// access is what the rules and the matcher say of a request.
type access byte

const (
	protected access = iota // needs a token
	public                  // needs none, gets no identity
	optional                // needs none, gets the identity of the token it has
	unmatched               // no rule names it: the matcher decides
)

// rules finds the rule for a request.
type rules []compiledRule

type compiledRule struct {
	access  access
	methods []string // nil: all
	path    string   // without the "*" of a prefix
	prefix  bool
}

// compileRules checks the rules and puts the more specific before the less: an
// exact path before a prefix, a longer prefix before a shorter. So each path is
// either public or optional, whatever the order in the configuration.
func compileRules(publicRules, optionalRules []Rule) (rules, error) {
	var rs rules
	for _, r := range publicRules {
		if err := r.checkPublic(); err != nil {
			return nil, err
		}
		methods := r.Methods
		if len(methods) == 0 {
			methods = []string{http.MethodGet, http.MethodHead}
		}
		rs = append(rs, compile(public, methods, r.Path))
	}
	for _, r := range optionalRules {
		if err := r.checkOptional(); err != nil {
			return nil, err
		}
		if slices.ContainsFunc(publicRules, func(p Rule) bool { return p.Path == r.Path }) {
			return nil, fmt.Errorf("%s is both public and optional; keep optional if the upstream wants to know who is calling, else public", r.Path)
		}
		rs = append(rs, compile(optional, nil, r.Path))
	}
	slices.SortStableFunc(rs, func(a, b compiledRule) int {
		if a.prefix != b.prefix {
			if a.prefix {
				return 1
			}
			return -1
		}
		return len(b.path) - len(a.path)
	})
	return rs, nil
}

func compile(a access, methods []string, pattern string) compiledRule {
	path, prefix := strings.CutSuffix(pattern, "*")
	return compiledRule{access: a, methods: methods, path: path, prefix: prefix}
}

// find returns what the rules say of a method and a decoded canonical path.
func (rs rules) find(method, path string) access {
	for i := range rs {
		r := &rs[i]
		if r.prefix {
			if !strings.HasPrefix(path, r.path) {
				continue
			}
		} else if path != r.path {
			continue
		}
		if r.methods == nil || slices.Contains(r.methods, method) {
			return r.access
		}
	}
	return unmatched
}
