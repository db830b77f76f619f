package rig

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
)

// failures holds, by the name of the test, the ids of requests that got an unexpected
// answer.
var failures = struct {
	mu  sync.Mutex
	ids map[string][]string
}{ids: make(map[string][]string)}

// suspect remembers an unexpected answer, so that the report of the failed test shows
// the log lines of its request.
func (a Answer) suspect(t testing.TB) {
	_, rest, ok := strings.Cut(a.Body, `"requestId":"`)
	if !ok {
		return
	}
	id, _, _ := strings.Cut(rest, `"`)
	failures.mu.Lock()
	defer failures.mu.Unlock()
	failures.ids[t.Name()] = append(failures.ids[t.Name()], id)
}

// suspects returns the ids of the requests on which the test and its subtests failed.
func suspects(t testing.TB) (ids []string) {
	failures.mu.Lock()
	defer failures.mu.Unlock()
	for name, of := range failures.ids {
		if name == t.Name() || strings.HasPrefix(name, t.Name()+"/") {
			ids = append(ids, of...)
		}
	}
	return ids
}

const (
	// reportLines and reportWidth limit what a failed test shows of a log to a page.
	reportLines, reportWidth = 30, 600
)

// report returns a page about a log for a failed test: the lines of the requests with
// these ids, or else the newest lines at WARN and above, and the path of the file with
// the whole log.
func (l *Log) report(test string, ids []string) string {
	lines := strings.Split(strings.TrimSpace(l.String()), "\n")
	what := "the lines of the requests that failed"
	shown := slices.DeleteFunc(slices.Clone(lines), func(line string) bool {
		return !slices.ContainsFunc(ids, func(id string) bool { return strings.Contains(line, id) })
	})
	if len(shown) == 0 {
		what = "the newest lines at WARN and above"
		shown = slices.DeleteFunc(slices.Clone(lines), func(line string) bool {
			return strings.HasPrefix(line, `{"level":"debug"`) || strings.HasPrefix(line, `{"level":"info"`)
		})
	}
	shown = shown[max(0, len(shown)-reportLines):]
	for i, line := range shown {
		shown[i] = line[:min(len(line), reportWidth)]
	}
	return fmt.Sprintf("%s; the whole log of %d lines is in %s:\n%s", what, len(lines), l.save(test), strings.Join(shown, "\n"))
}

// save writes the log to a file that outlives the test, and returns its path.
func (l *Log) save(test string) string {
	f, err := os.CreateTemp("", "wx-auth-failed-"+strings.Map(func(r rune) rune {
		if r == '/' || r == os.PathSeparator {
			return '-'
		}
		return r
	}, test)+"-*.log")
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if _, err := f.WriteString(l.String()); err != nil {
		return err.Error()
	}
	return f.Name()
}
