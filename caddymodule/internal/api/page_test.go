package api

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A client's developer finds each endpoint, with each of its methods, on the page of the
// HTTP API, and finds none there that does not exist.
func TestPageHasEachEndpoint(t *testing.T) {
	s := new(Server)
	for _, page := range []string{"../../../docs/http-api.md", "../../../docs/zh/http-api.md"} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for path, e := range endpoints {
			if strings.HasSuffix(path, "/") {
				path += "{" // an id follows
			}
			want := []string{"`/auth/wx" + path}
			if e.methods != nil {
				want = nil
				for _, m := range e.methods {
					if m != "HEAD" {
						want = append(want, "`"+m+" /auth/wx"+path)
					}
				}
			}
			for _, w := range want {
				if !regexp.MustCompile(regexp.QuoteMeta(w) + "[`?a-z ]").Match(text) {
					t.Errorf("%s lacks %s", page, w)
				}
			}
		}
		written := regexp.MustCompile("`(GET|POST|PATCH|PUT|DELETE) /auth/wx([^` ?]*)").FindAllStringSubmatch(string(text), -1)
		if len(written) < 15 {
			t.Errorf("%s has %d endpoints", page, len(written))
		}
		for _, m := range written {
			rest := strings.NewReplacer("{id}", "1", "{appid}", "wx").Replace(m[2])
			if e, _, ok := s.find(Route{rest: rest}); !strings.HasPrefix(rest, "/push/") && (!ok || e.methods != nil && !slices.Contains(e.methods, m[1])) {
				t.Errorf("%s has %s, which does not exist", page, m[0])
			}
		}
	}
}

// The page explains each field of the line that a login leaves in the log.
func TestPageHasEachFieldOfALogin(t *testing.T) {
	source, err := os.ReadFile("loginlog.go")
	if err != nil {
		t.Fatal(err)
	}
	fields := regexp.MustCompile(`zap\.(?:String|Strings|Int|Bool|Object|NamedError)\("(\w+)"`).FindAllStringSubmatch(string(source), -1)
	if len(fields) < 15 {
		t.Fatalf("only %d fields", len(fields))
	}
	for _, page := range []string{"../../../docs/operations.md", "../../../docs/zh/operations.md"} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range fields {
			if !regexp.MustCompile("(?m)^\\|[^|]*`" + f[1] + "`[^|]*\\|").Match(text) {
				t.Errorf("%s has no row for the field %s", page, f[1])
			}
		}
	}
}
