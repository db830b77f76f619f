package event

import (
	"os"
	"regexp"
	"testing"
)

// Operators choose events from the table in docs/operations.md. The table must list every event,
// and no other.
func TestPageHasEachEvent(t *testing.T) {
	source, err := os.ReadFile("event.go")
	if err != nil {
		t.Fatal(err)
	}
	known := make(map[string]bool)
	for _, m := range regexp.MustCompile(`"(wx_auth_\w+)"`).FindAllStringSubmatch(string(source), -1) {
		known[m[1]] = true
	}
	if len(known) < 10 {
		t.Fatalf("only %d events", len(known))
	}
	for _, page := range []string{"../../../docs/operations.md", "../../../docs/zh/operations.md"} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		rows := make(map[string]bool)
		for _, m := range regexp.MustCompile("(?m)^\\| `(wx_auth_\\w+)` \\|").FindAllStringSubmatch(string(text), -1) {
			if rows[m[1]] = true; !known[m[1]] {
				t.Errorf("%s has %s, which does not exist", page, m[1])
			}
		}
		for name := range known {
			if !rows[name] {
				t.Errorf("%s has no row for %s", page, name)
			}
		}
	}
}
