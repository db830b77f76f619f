package caddymodule

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/gate"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

const defaultEndpoints = "/auth/wx"

// prefixForm allows only characters that no client escapes, because the prefix is compared
// with the path as the client sent it.
var prefixForm = regexp.MustCompile(`^(/[A-Za-z0-9._~-]+)+$`)

// resolvePaths resolves endpoints, public and optional.
func (s *settings) resolvePaths(h *Handler, _ lookup) error {
	s.Endpoints = cmp.Or(h.Endpoints, defaultEndpoints)
	if err := checkPrefix(s.Endpoints); err != nil {
		return misset("endpoints", err)
	}
	for i, r := range h.Public {
		err := pathsOnly(r)
		if err == nil {
			var rules []gate.Rule
			rules, err = gate.ParsePublic(append(append([]string(nil), r.Methods...), r.Paths...))
			s.Gate.Public = append(s.Gate.Public, rules...)
			s.noteEndpoints("public", rules)
		}
		if err != nil {
			return missetAt("public", i, err)
		}
	}
	for i, path := range h.Optional {
		var rules []gate.Rule
		err := noPlaceholder(path)
		if err == nil {
			rules, err = gate.ParseOptional([]string{path})
		}
		if err == nil {
			s.Gate.Optional = append(s.Gate.Optional, rules...)
			s.noteEndpoints("optional", rules)
			_, err = gate.New(gate.Settings{Public: s.Gate.Public, Optional: s.Gate.Optional}, nil)
		}
		if err != nil {
			return missetAt("optional", i, err)
		}
	}
	return nil
}

// noteEndpoints notes the rules that are for endpoints only.
func (s *settings) noteEndpoints(name string, rules []gate.Rule) {
	for _, r := range rules {
		if r.Below(s.Endpoints) {
			s.noteEndpoint(name, r.Path)
		}
	}
}

func (s *settings) noteEndpoint(name, path string) {
	s.Useless = append(s.Useless, useless{
		fmt.Sprintf("%s %s is for endpoints only, and the endpoints at %s know no rule", name, path, s.Endpoints),
		"remove the path from the rule",
	})
}

// resolveRequire resolves the conditions for the callers of some paths.
func (s *settings) resolveRequire(h *Handler, look lookup) error {
	for i, r := range h.Require {
		required, err := s.requirement(r, look)
		if err == nil {
			s.Gate.Require = append(s.Gate.Require, required)
			_, err = gate.New(gate.Settings{Public: s.Gate.Public, Optional: s.Gate.Optional, Require: s.Gate.Require}, nil)
		}
		if err == nil {
			err = h.checkClaim(r.Field)
		}
		if err == nil && h.UsersRaw == nil && strings.HasPrefix(r.Field, "claims.") && !h.plainPhone(r.Field) {
			s.Useless = append(s.Useless, useless{
				fmt.Sprintf("require %s %s lets nobody pass, as the users of the store have no claims", strings.Join(r.Paths, " "), r.Field),
				"claims come from your own directory: add `users webhook` or `users sql`, or remove the rule",
			})
		}
		if err != nil {
			return missetAt("require", i, err)
		}
	}
	return nil
}

// checkClaim refuses the name of a claim that no directory may set, in a field claims.<name>.
func (h *Handler) checkClaim(field string) error {
	name, ok := strings.CutPrefix(field, "claims.")
	if ok && !h.plainPhone(field) && (user.ReservedClaim(name) || token.Reserved(name)) {
		return fmt.Errorf("%q has a meaning of its own in the token, so no directory may set it: choose another name there", name)
	}
	return nil
}

// plainPhone reports whether a field is the phone number that `token { claims }` adds.
func (h *Handler) plainPhone(field string) bool {
	return field == "claims."+login.PhoneClaim && h.Token != nil && slices.Contains(h.Token.Claims, login.PhoneClaim)
}

func (s *settings) requirement(r Requirement, look lookup) (gate.Requirement, error) {
	if err := noPlaceholder(strings.Join(append(r.Paths, r.Field), " ")); err != nil {
		return gate.Requirement{}, err
	}
	if err := gate.CheckRequired(r.Paths, r.Field); err != nil {
		return gate.Requirement{}, err
	}
	for _, path := range r.Paths {
		if gate.RequiredBelow(s.Endpoints, path) {
			s.noteEndpoint("require", path)
		}
	}
	values := slices.Clone(r.Values)
	for i, raw := range values {
		if r.Field != "appid" {
			if err := noPlaceholder(raw); err != nil {
				return gate.Requirement{}, err
			}
			continue
		}
		value, known, err := look(raw, syntax{})
		if err != nil {
			return gate.Requirement{}, err
		}
		if known {
			if values[i] = value; !slices.ContainsFunc(s.Apps, func(a wechat.App) bool { return a.ID == value || a.ID == "" }) {
				return gate.Requirement{}, fmt.Errorf("appid %s is not one of the mini programs that log in here; write one of their appids", raw)
			}
		}
	}
	return gate.NewRequirement(r.Paths, r.Field, values, caddy.ParseDuration)
}

func checkPrefix(prefix string) error {
	if err := noPlaceholder(prefix); err != nil {
		return err
	}
	switch {
	case strings.Trim(prefix, "/*") == "":
		return errors.New("it would leave no path to the upstream: use a prefix of its own, such as /auth/wx")
	case !strings.HasPrefix(prefix, "/"):
		return fmt.Errorf("%q is not a path: begin it with a slash, such as /auth/wx", prefix)
	case strings.HasSuffix(prefix, "/*"), strings.HasSuffix(prefix, "/"):
		return fmt.Errorf("write the prefix without its end: %s", strings.TrimRight(prefix, "/*"))
	case !prefixForm.MatchString(prefix) || !gate.Canonical(prefix):
		return fmt.Errorf("%s can be read in more than one way: use letters, digits, - and _ between single slashes, such as /auth/wx", prefix)
	}
	return nil
}

// pathsOnly refuses placeholders, a path that would be read as a method, and a method that would
// be read as a path.
func pathsOnly(r Rule) error {
	if err := noPlaceholder(strings.Join(r.Methods, " ")); err != nil {
		return err
	}
	for _, m := range r.Methods {
		if m == "" || m[0] == '/' || m[0] == '*' {
			return fmt.Errorf("%q is not a method: methods are in capitals, such as POST", m)
		}
	}
	for _, p := range r.Paths {
		if err := noPlaceholder(p); err != nil {
			return err
		}
		if p != "" && p[0] != '/' && p[0] != '*' {
			return fmt.Errorf("%q is not a path: paths begin with a slash, methods come before them", p)
		}
	}
	return nil
}

// resolveIdentity resolves the headers that the upstream gets.
func (s *settings) resolveIdentity(h *Handler, _ lookup) error {
	if len(h.Identity) == 0 {
		s.Gate.Headers = gate.DefaultHeaders()
	}
	for i, id := range h.Identity {
		var header gate.Header
		err := noPlaceholder(id.Header + " " + id.Field)
		if err == nil {
			header, err = gate.ParseHeader(id.Header, id.Field)
		}
		if err == nil {
			if err = h.checkClaim(id.Field); err != nil {
				err = fmt.Errorf("%w; what the gateway knows itself are the fields id, openid, appid, unionid, phone and session", err)
			}
		}
		if err == nil {
			s.Gate.Headers = append(s.Gate.Headers, header)
			_, err = gate.New(gate.Settings{Headers: s.Gate.Headers}, nil)
		}
		if err != nil {
			return missetAt("identity", i, err)
		}
	}
	if err := noPlaceholder(strings.Join(h.PassHeaders, " ")); err != nil {
		return misset("pass_header", err)
	}
	s.Gate.Pass = h.PassHeaders
	_, err := gate.New(gate.Settings{Headers: s.Gate.Headers, Pass: s.Gate.Pass}, nil)
	return misset("pass_header", err)
}

// resolveCredentials resolves the places of a token other than Authorization.
func (s *settings) resolveCredentials(h *Handler, _ lookup) error {
	for i, c := range h.Credentials {
		err := noPlaceholder(c.Source + " " + c.Name)
		if err == nil {
			err = s.Gate.Sources.ParseSource(c.Source, c.Name)
		}
		if err != nil {
			return missetAt("credential", i, err)
		}
	}
	return nil
}
