package gate

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Rule matches requests that need no token.
type Rule struct {
	// Methods are the methods that the rule matches. Empty means GET and HEAD in a
	// public rule. An optional rule matches every method, and must not list any.
	Methods []string `json:"methods,omitempty"`
	// Path is compared with the decoded path, case-sensitively. "/health" matches that
	// path only. "/docs/*" matches "/docs/" and everything below it, but not "/docs".
	Path string `json:"path"`
}

// ParsePublic parses the arguments of public: optional methods, then one or more paths.
// Its error shows the correct form.
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

// ParseOptional parses the arguments of optional: one or more paths. Its error shows
// the correct form.
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

// checkPattern refuses a pattern that matches no canonical path, or that matches
// something else than its author probably means.
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
	return errors.New("a request with such a path always needs a token: it has an empty or a dots-only segment, " +
		"or one of ; % \\ ? # or a control character, which upstreams may read differently; name another path")
}

// Below reports whether a rule matches nothing but prefix and what is below it.
func (r Rule) Below(prefix string) bool {
	rest, ok := strings.CutPrefix(r.Path, prefix)
	return ok && (rest == "" || rest[0] == '/')
}

// isMethod reports whether s has the form of the methods in a rule. Methods are
// case-sensitive, and the methods in use are in capitals.
func isMethod(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'A' || c > 'Z') && c != '-' && c != '_' {
			return false
		}
	}
	return s != ""
}

// access is the decision of the rules and the matcher about a request.
type access byte

const (
	protected access = iota // the request needs a token
	public                  // it needs none and gets no identity
	optional                // it needs none, but gets the identity of the token that it presents
	unmatched               // no rule matches it: the matcher decides
)

// rules are compiled rules, the more specific ones first.
type rules []compiledRule

type compiledRule struct {
	access  access
	methods []string // nil: all
	path    string   // without the "*" of a prefix
	prefix  bool
}

// compileRules checks the rules and sorts the more specific before the less specific:
// an exact path before a prefix, a longer prefix before a shorter one. Each path is
// therefore either public or optional, whatever the order in the configuration.
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

// find returns the decision of the rules for a method and a decoded canonical path.
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
