package rig

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Hoard collects values that must not appear anywhere.
type Hoard struct {
	W      *WeChat
	values []string
}

func (h *Hoard) Add(values ...string) {
	for _, v := range values {
		if len(v) >= 8 && !slices.Contains(h.values, v) {
			h.values = append(h.values, v)
		}
	}
}

// Pair adds a pair that was answered. Its parts are worth as much as the whole, so they
// are added too.
func (h *Hoard) Pair(p Pair) Pair {
	h.Add(p.Token, p.RefreshToken)
	if parts := strings.Split(p.Token, "."); len(parts) == 3 {
		h.Add(parts[1], parts[2])
	}
	return p
}

// All returns the collected values and those that the simulator knows.
func (h *Hoard) All() []string { return append(slices.Clone(h.values), h.W.Secrets()...) }

// Search prepares a search for all values in a text: thousands of values in megabytes.
func (h *Hoard) Search() Search {
	s := make(Search)
	for _, v := range h.All() {
		s[v[:8]] = append(s[v[:8]], v)
	}
	return s
}

// Search finds values in a text, by their first eight bytes.
type Search map[string][]string

// In returns the lines of a text that contain one of the values.
func (s Search) In(text string) []string {
	var found []string
lines:
	for line := range strings.Lines(text) {
		for i := range max(0, len(line)-7) {
			for _, v := range s[line[i:i+8]] {
				if strings.HasPrefix(line[i:], v) {
					found = append(found, fmt.Sprintf("%q in %s", v, line))
					continue lines
				}
			}
		}
	}
	return found
}

func (s Search) WantNone(t testing.TB, where, text string) {
	t.Helper()
	found := s.In(text)
	for _, line := range found[:min(len(found), 5)] {
		t.Errorf("%s: %s", where, line)
	}
	if len(found) > 5 {
		t.Errorf("%s: and %d lines more", where, len(found)-5)
	}
}

// Shown returns what an administrator can read about this Caddy, by where it is read.
func (c *Caddy) Shown(t testing.TB) map[string]string {
	t.Helper()
	autosave, err := os.ReadFile(filepath.Join(c.Home, "config", "caddy", "autosave.json"))
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]string{"autosave.json": string(autosave)}
	for _, path := range []string{"/config/", "/metrics", "/debug/vars"} {
		if shown[path], err = c.Admin(path); err != nil {
			t.Fatal(err)
		}
	}
	return shown
}
