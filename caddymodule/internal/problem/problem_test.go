package problem

import (
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
)

// A code without an entry in the catalogue would be answered as internal_error. A code that is
// not on the page of the HTTP API is of no use to a client's developer.
func TestEveryCodeHasItsEntry(t *testing.T) {
	source, err := os.ReadFile("codes.go")
	if err != nil {
		t.Fatal(err)
	}
	declared := regexp.MustCompile(`Code = "(\w+)"`).FindAllStringSubmatch(string(source), -1)
	if len(declared) != len(codes) {
		t.Errorf("%d codes, %d entries", len(declared), len(codes))
	}
	for _, doc := range []string{"../../../docs/http-api.md", "../../../docs/zh/http-api.md", "../../../docs/agents.md", "../../../docs/zh/agents.md"} {
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range declared {
			if row := fmt.Sprintf("\n| %d | `%s` |", New(Code(d[1])).Status, d[1]); !strings.Contains(string(text), row) {
				t.Errorf("%s lacks the row%s", doc, row)
			}
		}
		for _, row := range regexp.MustCompile("(?m)^\\| \\d{3} \\| `(\\w+)` \\|").FindAllStringSubmatch(string(text), -1) {
			if _, ok := codes[Code(row[1])]; !ok {
				t.Errorf("%s has %s, which does not exist", doc, row[1])
			}
		}
	}
	for _, doc := range []string{"../../../docs/troubleshooting.md", "../../../docs/zh/troubleshooting.md"} {
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range declared {
			if !regexp.MustCompile("(?m)^\\| [^|]*`" + d[1] + "`[^|]* \\|").Match(text) {
				t.Errorf("%s has no row for %s", doc, d[1])
			}
		}
	}
	for _, d := range declared {
		if p := New(Code(d[1])); string(p.Code) != d[1] || p.Title == "" || p.Title != http.StatusText(p.Status) || p.Detail == "" {
			t.Errorf("%s: %+v", d[1], p)
		}
	}
}

// Every 401 needs a challenge (RFC 9110, section 15.5.2). That includes a 401 made from
// another status, because nginx's auth_request accepts only 401 and 403.
func TestEvery401HasAChallenge(t *testing.T) {
	for code := range codes {
		for _, p := range []*Problem{New(code), New(code).WithStatus(http.StatusUnauthorized)} {
			if p.Status == http.StatusUnauthorized && !strings.HasPrefix(p.Challenge, `Bearer realm="wx-auth"`) {
				t.Errorf("%s: %q", code, p.Challenge)
			}
		}
	}
}

// A code that the catalogue lacks is a bug of this program. Its text must not reach a
// client.
func TestUnknownCodeIsAnInternalError(t *testing.T) {
	if p := New("made up"); p.Code != InternalError || p.Status != http.StatusInternalServerError {
		t.Errorf("%+v", p)
	}
}
