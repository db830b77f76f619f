package rig

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// A failed test shows the log lines of the requests that it failed on, one page at
// most, and where the whole log is.
func TestReportShowsAPage(t *testing.T) {
	var l Log
	for i := range 10000 {
		fmt.Fprintf(&l, `{"level":"info","msg":"handled","uuid":"id-%d"}`+"\n", i)
	}
	fmt.Fprintln(&l, `{"level":"error","msg":"broken"}`)
	for _, c := range []struct {
		ids  []string
		want string
	}{
		{[]string{"id-77\""}, `"uuid":"id-77"`},
		{nil, `"msg":"broken"`},
	} {
		text := l.report(t.Name(), c.ids)
		first, lines, _ := strings.Cut(text, "\n")
		if lines != `{"level":"info","msg":"handled",`+c.want+`}` && lines != `{"level":"error",`+c.want+`}` {
			t.Errorf("of %q it shows %q", c.ids, lines)
		}
		_, path, _ := strings.Cut(strings.TrimSuffix(first, ":"), " is in ")
		defer os.Remove(path)
		if whole, err := os.ReadFile(path); err != nil || string(whole) != l.String() {
			t.Errorf("the whole log is not in %q: %v", path, err)
		}
	}
}
