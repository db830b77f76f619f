package session

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

var uuid7 = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

// Ids have the layout of RFC 9562 and sort by the time of the login.
func TestIDsAreUUIDv7InOrder(t *testing.T) {
	// This is the example of RFC 9562, appendix A.6.
	if id := NewID(time.UnixMilli(0x017F22E279B0)); !strings.HasPrefix(id, "017f22e2-79b0-7") {
		t.Errorf("got %s", id)
	}
	var ids []string
	for i := range 1000 {
		id := NewID(start.Add(time.Duration(i) * time.Millisecond))
		if !uuid7.MatchString(id) {
			t.Fatalf("%s is no UUID of version 7", id)
		}
		ids = append(ids, id)
	}
	if !slices.IsSorted(ids) {
		t.Error("later ids do not sort later")
	}
	seen := make(map[string]bool)
	for range 10000 {
		seen[NewID(start)] = true
	}
	if len(seen) != 10000 {
		t.Error("two ids are the same")
	}
}

// A new session has every field that a refresh and the list of devices need, whatever
// the caller has set in those that are not the caller's.
func TestNewSession(t *testing.T) {
	now := start.Add(1234567 * time.Nanosecond).In(time.FixedZone("CST", 8*3600))
	got := New(Session{
		ID: "x", UserID: "u1", Issuer: "wx-auth", AppID: "wxapp", OpenID: "o1", UnionID: "n1",
		Audience: "api", Counter: 99, EndedAt: start, EndReason: ReasonLogout, UserAgent: "agent", Address: "192.0.2.1",
	}, settings, now)
	if !uuid7.MatchString(got.ID) {
		t.Errorf("id %q", got.ID)
	}
	login := start.Add(time.Millisecond)
	want := Session{
		ID: got.ID, UserID: "u1", Issuer: "wx-auth", AppID: "wxapp", OpenID: "o1", UnionID: "n1",
		CreatedAt: login, RefreshedAt: login, AdvancedAt: login, ExpiresAt: login.Add(settings.Idle),
		Audience: "api", TokensUntil: login.Add(settings.TokenLife + settings.Grace + clockSkew),
		Counter: 1, UserAgent: "agent", Address: "192.0.2.1",
	}
	if got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	short := settings
	short.Lifetime = time.Hour
	if got := New(Session{}, short, start); !got.ExpiresAt.Equal(start.Add(time.Hour)) {
		t.Errorf("a lifetime below idle: expires %v", got.ExpiresAt)
	}
}

// A client sends a user agent of a megabyte, with control characters or broken UTF-8.
// It must neither fail the insert nor reach an operator's terminal.
func TestDeviceTextFitsTheStore(t *testing.T) {
	tests := []struct{ in, want string }{
		{"Mozilla/5.0 微信", "Mozilla/5.0 微信"},
		{"a\x00b\r\nc\x7f\u0085d", "abcd"},
		{"bad \xff\xfe utf-8", "bad  utf-8"},
		{strings.Repeat("a", 10000), strings.Repeat("a", 255)},
		{"a" + strings.Repeat("信", 100), "a" + strings.Repeat("信", 84)},
	}
	for _, tt := range tests {
		got := New(Session{UserAgent: tt.in, Address: tt.in}, settings, start)
		if got.UserAgent != tt.want || got.Address != tt.want || !utf8.ValidString(got.UserAgent) {
			t.Errorf("%.20q: got %q", tt.in, got.UserAgent)
		}
	}
}

// If an id had a second spelling, a revocation under one spelling would miss tokens
// that carry the other.
func TestIDHasOneSpelling(t *testing.T) {
	id := NewID(start)
	if got, ok := parseID(id); !ok || got.String() != id {
		t.Fatalf("%s: got %v", id, got)
	}
	for _, s := range []string{
		"", "x", strings.ToUpper(id), strings.ReplaceAll(id, "-", ""), "{" + id + "}", "urn:uuid:" + id,
		id[:35], id + "0", id[:35] + "g", id[:35] + "\xff", id[:8] + "0" + id[9:], " " + id[1:],
	} {
		if s == id { // it has no letter to change
			continue
		}
		if _, ok := parseID(s); ok {
			t.Errorf("%q: accepted", s)
		}
	}
}

// Whatever parseID accepts must be spelled exactly as String spells it.
func FuzzID(f *testing.F) {
	f.Add(NewID(start))
	f.Add("017F22E2-79B0-7CC3-98C4-DC0C0C07398F")
	f.Add("------------------------------------")
	f.Fuzz(func(t *testing.T, text string) {
		if id, ok := parseID(text); ok && id.String() != text {
			t.Errorf("%q is read as %s", text, id)
		}
	})
}
