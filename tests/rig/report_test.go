package rig

import (
	"fmt"
	"os"
	"runtime"
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

// A package that runs into -timeout says in a page which tests are under way, and at which
// line each of them waits.
func TestLateTestsAreNamed(t *testing.T) {
	stacks := make([]byte, 1<<20)
	text := underWay(stacks[:runtime.Stack(stacks, true)])
	if !strings.Contains(text, "rig.TestLateTestsAreNamed") || !strings.Contains(text, "report_test.go:") {
		t.Errorf("it says %q", text)
	}
	if n := strings.Count(text, "\n"); n >= reportLines {
		t.Errorf("%d lines", n)
	}
}
