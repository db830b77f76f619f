package rig

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// JWTPart returns the header (0) or the claims (1) of a token.
func JWTPart(t testing.TB, token string, part int) map[string]any {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("%d parts in a token", len(parts))
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[part])
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]any
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func SessionOf(t testing.TB, token string) string {
	t.Helper()
	sid, _ := JWTPart(t, token, 1)["sid"].(string)
	if sid == "" {
		t.Fatal("a token without sid")
	}
	return sid
}

// Members returns the names of a JSON object's members, sorted.
func Members(t testing.TB, object string) []string {
	t.Helper()
	var v map[string]json.RawMessage
	if err := json.Unmarshal([]byte(object), &v); err != nil {
		t.Fatalf("%v in %s", err, object)
	}
	return slices.Sorted(maps.Keys(v))
}

func WantMembers(t testing.TB, object string, want ...string) {
	t.Helper()
	slices.Sort(want)
	if got := Members(t, object); !slices.Equal(got, want) {
		t.Errorf("members %q, want %q", got, want)
	}
}

// WantHeader fails the test unless the upstream got the header with this value; an
// empty value means that it must be absent.
func (s Seen) WantHeader(t testing.TB, name, want string) {
	t.Helper()
	got := s.Header.Values(name)
	if want == "" && len(got) > 0 || want != "" && (len(got) != 1 || got[0] != want) {
		t.Errorf("%s: %q, want %q", name, got, want)
	}
}

// Whole returns everything that a client sees of an answer, except the parts that differ in
// each answer.
func (a Answer) Whole(t testing.TB) string {
	t.Helper()
	h := maps.Clone(a.Header)
	delete(h, "Date")
	p := a.Problem(t)
	if p.RequestID == "" {
		t.Errorf("no request id: %s", a.Body)
	}
	body := strings.Replace(a.Body, p.RequestID, "ID", 1)
	h["Content-Length"] = []string{fmt.Sprint(len(body))}
	return fmt.Sprintln(a.Status, h, body)
}
