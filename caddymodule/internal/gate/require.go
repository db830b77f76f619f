package gate

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
)

// Requirement says who may call some paths: only callers whose token has one of the
// values in a field. It takes precedence over public and optional rules and over the
// matcher.
type Requirement struct {
	// Paths are exact paths, or "/prefix/*" for a path and everything below it. Each matches
	// with and without a slash at the end, and in any case: an upstream that ignores case
	// would serve "/Admin" to a caller that must not have "/admin".
	Paths []string
	// Field is "claims.<name>", "appid" or "phone_within".
	Field string
	// Values are the accepted values of a claim or the appid, compared byte by byte.
	// One of them is enough.
	Values []string
	// Within is the accepted age of the caller's last login with a phone number, for
	// phone_within.
	Within time.Duration
}

// phoneWithin is the field that requires a recent login with a phone number.
const phoneWithin = "phone_within"

// LeastAge is the shortest age of a phone login that a setting can mean, and mostAge the longest.
const (
	LeastAge = 100 * time.Millisecond
	mostAge  = 100 * 365 * 24 * time.Hour
)

// NewRequirement returns a checked requirement. duration parses the age of phone_within.
// The error shows the correct form.
func NewRequirement(paths []string, field string, values []string, duration func(string) (time.Duration, error)) (Requirement, error) {
	r := Requirement{Paths: paths, Field: field, Values: values}
	if err := CheckRequired(paths, field); err != nil {
		return r, err
	}
	if field == phoneWithin {
		return r.within(duration)
	}
	if len(values) == 0 || slices.Contains(values, "") {
		example := "admin"
		if field == "appid" {
			example = "{env.WX_APPID}"
		}
		return r, fmt.Errorf("require %s %s: a value is missing; name the values that may pass: require %s %s %s",
			paths[0], field, paths[0], field, example)
	}
	return r, nil
}

// CheckRequired checks the paths and the field of a requirement, whose values may not be known
// yet. The error shows the correct form.
func CheckRequired(paths []string, field string) error {
	switch {
	case len(paths) > 0:
	case field == "*":
		return errors.New("require *: paths begin with \"/\"; write /* for all of them")
	case isMethod(field):
		return fmt.Errorf("require takes no method, it is for all of them; write: require /admin/* claims.role admin (not %q)", field)
	default:
		return errors.New("require names no path; write: require /admin/* claims.role admin")
	}
	for _, p := range paths {
		if err := checkPattern(p); err != nil {
			return fmt.Errorf("require %s: %w", p, err)
		}
	}
	if field == "" {
		return fmt.Errorf("require %s names no field; write: require %s claims.role admin", paths[0], paths[0])
	}
	if _, ok := fieldOf(field); field != phoneWithin && (!ok || field != "appid" && !strings.HasPrefix(field, "claims.")) {
		return fmt.Errorf("require %s: there is no field %q; write claims.<name>, appid or phone_within", paths[0], field)
	}
	return nil
}

// within sets the age of a phone_within requirement.
func (r Requirement) within(duration func(string) (time.Duration, error)) (Requirement, error) {
	if len(r.Values) != 1 {
		return r, fmt.Errorf("require %s phone_within takes one age; write: require %s phone_within 15m", r.Paths[0], r.Paths[0])
	}
	age, err := duration(r.Values[0])
	if err != nil || age < LeastAge || age > mostAge {
		return r, fmt.Errorf("require %s phone_within: %q is not an age from 100ms to a hundred years; write for example 15m or 24h", r.Paths[0], r.Values[0])
	}
	r.Values, r.Within = nil, age
	return r, nil
}

// requirement is a Requirement in compiled form.
type requirement struct {
	patterns []pattern
	field    field
	values   []string
	within   time.Duration // not 0: phone_within
}

// pattern matches a path in the form that fold gives it.
type pattern struct {
	base   string // without "/" or "/*" at the end
	prefix bool   // everything below base matches, too
}

func compilePattern(path string) pattern {
	base, prefix := strings.CutSuffix(path, "/*")
	return pattern{fold(strings.TrimSuffix(base, "/")), prefix}
}

// match compares p with a path that is in ASCII or was folded.
func (p *pattern) match(path string) bool {
	n := len(p.base)
	if len(path) < n {
		return false
	}
	// The byte behind the base is compared first, as it differs in most paths.
	rest := path[n:]
	if rest != "" && (rest[0] != '/' || !p.prefix && len(rest) > 1) {
		return false
	}
	return path[:n] == p.base || equalLower(path[:n], p.base)
}

// covers reports whether p matches everything that a rule's path matches.
func (p *pattern) covers(path string) bool {
	rule := compilePattern(path)
	if rule.prefix && !p.prefix {
		return false
	}
	return p.match(rule.base) || p.prefix && strings.HasPrefix(rule.base, p.base+"/")
}

// RequiredBelow reports whether a requirement for path concerns nothing but prefix and what is
// below it. Both are compared as the paths of requests are.
func RequiredBelow(prefix, path string) bool {
	p := compilePattern(prefix + "/*")
	return p.covers(path)
}

// equalLower compares ASCII without regard to case, and all other bytes as they are.
// lower is in lower case.
func equalLower(s, lower string) bool {
	for i := range len(s) {
		c := s[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// fold returns the form in which paths are compared. Upstreams may treat two different names
// as the same in each of these ways, so fold makes them equal: compatibility variants become
// the characters that they stand for (NFKC: "ａ" is "a"); case is folded in full ("ß" is "ss");
// the dotted and the dotless i become "i", as in Java's equalsIgnoreCase; characters that are
// not displayed are left out.
func fold(path string) string {
	if isASCII(path) {
		return strings.ToLower(path)
	}
	path = strings.Map(func(r rune) rune {
		if unicode.In(r, unicode.Cf, unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector) {
			return -1
		}
		return unicode.ToLower(unicode.ToUpper(r))
	}, norm.NFKC.String(path))
	return norm.NFKC.String(cases.Fold().String(path))
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// requirements are the compiled requirements of a directive.
type requirements []requirement

// compileRequirements checks the requirements, and refuses rules that they leave without
// effect.
func compileRequirements(rs []Requirement, public, optional []Rule) (requirements, error) {
	var compiled requirements
	if len(rs) > 0 {
		for _, rule := range slices.Concat(public, optional) {
			if err := rule.checkFolded(); err != nil {
				return nil, err
			}
		}
	}
	for _, r := range rs {
		c := requirement{values: r.Values, within: r.Within}
		if r.Field != phoneWithin {
			c.field, _ = fieldOf(r.Field)
		}
		for _, path := range r.Paths {
			p := compilePattern(path)
			for _, open := range []struct {
				name  string
				rules []Rule
			}{{"public", public}, {"optional", optional}} {
				i := slices.IndexFunc(open.rules, func(o Rule) bool { return p.covers(o.Path) })
				if i >= 0 {
					return nil, fmt.Errorf("%s %s has no effect: it is below require %s, which always needs a token; leave one of them out",
						open.name, open.rules[i].Path, path)
				}
			}
			c.patterns = append(c.patterns, p)
		}
		compiled = append(compiled, c)
	}
	return compiled, nil
}

// checkFolded refuses a rule that requirements leave without effect, because its path is no
// longer canonical when it is folded.
func (r Rule) checkFolded() error {
	path := strings.TrimSuffix(r.Path, "*")
	folded := fold(path)
	if isASCII(path) || Canonical((&url.URL{Path: folded}).EscapedPath()) {
		return nil
	}
	return fmt.Errorf("the rule for %s has no effect: beside require, a path that an upstream may read as %q always needs a token; name another path",
		r.Path, folded)
}

// place is the path of a request as the requirements see it.
type place struct {
	path string
	// canonical is false for a path that an upstream may take for another one. Such a
	// path has to meet every requirement: no spelling leads around one.
	canonical bool
	// required begins with the first requirement that concerns the place, and ends with the
	// last of all. It is empty if none concerns it.
	required requirements
}

// placeOf returns the place of a request, from what [Path] returned. A path that stops being
// canonical when it is folded does not count as canonical: a "／" beyond ASCII is a "/" to an
// upstream that normalizes to NFKC.
func (rs requirements) placeOf(r *http.Request, escaped string, canonical bool) place {
	p := place{path: r.URL.Path, canonical: canonical}
	// A canonical path has characters beyond ASCII only as escapes, which are longer.
	if canonical && len(escaped) != len(p.path) && !isASCII(p.path) {
		p.path = fold(p.path)
		p.canonical = Canonical((&url.URL{Path: p.path}).EscapedPath())
	}
	for i := range rs {
		if rs[i].applies(&p) {
			p.required = rs[i:]
			break
		}
	}
	return p
}

// Requires reports whether there are requirements.
func (g *Gate) Requires() bool { return len(g.requirements) > 0 }

func (r *requirement) applies(at *place) bool {
	if !at.canonical {
		return true
	}
	for i := range r.patterns {
		if r.patterns[i].match(at.path) {
			return true
		}
	}
	return false
}

// check returns the refusal of a caller that does not meet every requirement of a place, or
// nil. If a login with the phone number would be enough, the refusal's code says so.
func (at *place) check(caller *token.Identity, now time.Time) *problem.Problem {
	var refusal *problem.Problem
	for i := range at.required {
		r := &at.required[i]
		if i > 0 && !r.applies(at) || r.met(caller, now) {
			continue
		}
		if r.within == 0 || !at.canonical {
			return problem.New(problem.Forbidden)
		}
		refusal = problem.New(problem.PhoneLoginRequired).WithRenew([]string{"code", "phoneCode"})
	}
	return refusal
}

func (r *requirement) met(caller *token.Identity, now time.Time) bool {
	if r.within != 0 {
		at := caller.AuthTime()
		return !at.IsZero() && now.Sub(at) <= r.within
	}
	if r.field.get != nil {
		return slices.Contains(r.values, r.field.get(caller))
	}
	claim := caller.Claim(r.field.claim)
	if list, ok := claim.([]any); ok {
		return slices.ContainsFunc(list, r.accepts)
	}
	return r.accepts(claim)
}

// accepts reports whether a single value of a claim is one of the required ones. A
// claim that is missing or null has no value.
func (r *requirement) accepts(v any) bool {
	s, ok := text(v)
	return ok && s != "" && slices.Contains(r.values, s)
}
