package gate

import (
	"net/http"
	"reflect"
	"strings"
	"testing"
)

// TestRulesAreRead parses the arguments of public and optional.
func TestRulesAreRead(t *testing.T) {
	for _, c := range []struct {
		args []string
		want []Rule
	}{
		{[]string{"/health"}, []Rule{{Path: "/health"}}},
		{[]string{"/", "/docs/*", "/你好", "/a b"}, []Rule{{Path: "/"}, {Path: "/docs/*"}, {Path: "/你好"}, {Path: "/a b"}}},
		{[]string{"GET", "POST", "/a", "/b/*"}, []Rule{
			{Methods: []string{"GET", "POST"}, Path: "/a"}, {Methods: []string{"GET", "POST"}, Path: "/b/*"},
		}},
	} {
		got, err := ParsePublic(c.args)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("public %v: %v, %v", c.args, got, err)
		}
	}
	got, err := ParseOptional([]string{"/a", "/*"})
	if err != nil || !reflect.DeepEqual(got, []Rule{{Path: "/a"}, {Path: "/*"}}) {
		t.Errorf("optional: %v, %v", got, err)
	}
}

// TestMistakenRulesAreRefusedWithTheRemedy parses rules that would open too much or
// never match. The error says what to write.
func TestMistakenRulesAreRefusedWithTheRemedy(t *testing.T) {
	for _, c := range []struct{ directive, args, remedy string }{
		{"public", "", "write: public /health"},
		{"public", "*", "name the open ones"},
		{"public", "/*", "name the open ones"},
		{"public", "GET *", "name the open ones"},
		{"public", "/health *", "name the open ones"},
		{"public", "GET", "write: public GET /hooks/*"},
		{"public", "health", `paths begin with "/"`},
		{"public", "health /a", "methods in capitals"},
		{"public", "get /health", "methods in capitals"},
		{"public", "/health GET", `paths begin with "/"`},
		{"public", "TRACE /health", "TRACE is never let through"},
		{"public", "/docs*", "write /docs/*"},
		{"public", "/*/docs", "at the end only"},
		{"public", "/a/*/*", "at the end only"},
		{"public", "*.png", `paths begin with "/"`},
		{"public", "/a/**", "write /a/*/*"},
		{"public", "/a//b", "name another path"},
		{"public", "/a/../b", "name another path"},
		{"public", "/a;b", "name another path"},
		{"public", `/a\b`, "name another path"},
		{"public", "/a%20b", `write "/a b"`},
		{"public", "/a%2fb", `write "/a/b"`},
		{"public", "/100%", "name another path"},
		{"public", "/a?b", "name another path"},
		{"public", "/{env.X}", "write it out"},
		{"optional", "", "write: optional /articles/*"},
		{"optional", "*", "write /*"},
		{"optional", "GET /a", "it is for all of them"},
		{"optional", "articles", `paths begin with "/"`},
		{"optional", "/a/./b", "name another path"},
	} {
		parse := ParsePublic
		if c.directive == "optional" {
			parse = ParseOptional
		}
		rules, err := parse(strings.Fields(c.args))
		if err == nil {
			t.Errorf("%s %s: taken as %v", c.directive, c.args, rules)
		} else if !strings.Contains(err.Error(), c.remedy) || !strings.HasPrefix(err.Error(), c.directive) {
			t.Errorf("%s %s: %q does not say %q", c.directive, c.args, err, c.remedy)
		}
	}
}

// TestSettingsAreCheckedFromAnySource puts the mistakes into a JSON configuration, which no
// Caddyfile parser has checked.
func TestSettingsAreCheckedFromAnySource(t *testing.T) {
	for _, c := range []struct {
		name, want string
		s          Settings
	}{
		{"both", "both public and optional", Settings{Public: []Rule{{Path: "/a"}}, Optional: []Rule{{Path: "/a"}}}},
		{"both with methods", "both public and optional", Settings{Public: []Rule{{Methods: []string{"POST"}, Path: "/a/*"}}, Optional: []Rule{{Path: "/a/*"}}}},
		{"public all", "every path", Settings{Public: []Rule{{Path: "/*"}}}},
		{"public empty", "begin with", Settings{Public: []Rule{{}}}},
		{"optional methods", "takes no method", Settings{Optional: []Rule{{Methods: []string{"GET"}, Path: "/a"}}}},
		{"header", "there is no field", Settings{Headers: []Header{{"X-User", "name"}}}},
		{"header twice", "set twice", Settings{Headers: []Header{{"X-User", "id"}, {"x-user", "phone"}}}},
	} {
		if _, err := New(c.s, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestTheMoreSpecificRuleCounts compares paths with nested public and optional rules,
// whose order must not matter.
func TestTheMoreSpecificRuleCounts(t *testing.T) {
	rs, err := compileRules(
		[]Rule{{Path: "/docs/*"}, {Methods: []string{"POST"}, Path: "/hooks/*"}, {Path: "/a b"}, {Path: "/docs/mine/open/*"}, {Path: "/你好/*"}},
		[]Rule{{Path: "/docs/mine/*"}, {Path: "/docs/me"}},
	)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		method, path string
		want         access
	}{
		{"GET", "/docs/x", public},
		{"HEAD", "/docs/x/y", public},
		{"GET", "/docs/", public},
		{"GET", "/docs", unmatched},
		{"GET", "/docsx", unmatched},
		{"GET", "/Docs/x", unmatched},
		{"POST", "/docs/x", unmatched},
		{"get", "/docs/x", unmatched},
		{"OPTIONS", "/docs/x", unmatched},
		{"GET", "/docs/me", optional},
		{"DELETE", "/docs/me", optional},
		{"GET", "/docs/me/", public},
		{"GET", "/docs/mine/x", optional},
		{"GET", "/docs/mine/open/x", public},
		{"PUT", "/docs/mine/open/x", optional}, // the longest rule for PUT
		{"POST", "/hooks/x", public},
		{"GET", "/hooks/x", unmatched},
		{"GET", "/a b", public},
		{"GET", "/a", unmatched},
		{"GET", "/a b/", unmatched},
		{"GET", "/你好/x", public},
		{"GET", "/", unmatched},
	} {
		if got := rs.find(c.method, c.path); got != c.want {
			t.Errorf("%s %s: %v, want %v", c.method, c.path, got, c.want)
		}
	}
	if got := rules(nil).find(http.MethodGet, "/"); got != unmatched {
		t.Errorf("without rules: %v", got)
	}
}
