package rig

import (
	"bytes"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"
)

// Log is everything that a process has written, over all its restarts. It can be read
// while the process writes.
type Log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// String returns the log so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// Lines returns the lines that contain all of the given texts.
func (l *Log) Lines(texts ...string) []string {
	var found []string
next:
	for line := range strings.Lines(l.String()) {
		for _, text := range texts {
			if !strings.Contains(line, text) {
				continue next
			}
		}
		found = append(found, strings.TrimSuffix(line, "\n"))
	}
	return found
}

// Wait waits for a line that contains all of the given texts and returns the first
// such line.
func (l *Log) Wait(t testing.TB, within time.Duration, texts ...string) string {
	t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(5 * time.Millisecond) {
		if lines := l.Lines(texts...); len(lines) > 0 {
			return lines[0]
		}
		if time.Now().After(deadline) {
			t.Fatalf("no line with %q in the log after %s", texts, within)
		}
	}
}

// tail returns the end of the log, for a process that does not start.
func (l *Log) tail() string {
	const most = 4 << 10
	s := l.String()
	if len(s) > most {
		s = "…" + s[len(s)-most:]
	}
	return s
}

// Line returns the log line about the login that was answered with that request id.
func (c *Caddy) Line(t testing.TB, requestID string) map[string]any {
	t.Helper()
	raw := c.Log.Wait(t, 20*time.Second, `"requestId":"`+requestID+`"`)
	var line map[string]any
	if err := json.Unmarshal([]byte(raw), &line); err != nil {
		t.Fatalf("%v in %s", err, raw)
	}
	if n := len(c.Log.Lines(`"requestId":"` + requestID + `"`)); n != 1 {
		t.Errorf("%d lines of one login", n)
	}
	return line
}

// unheardTime is how long it may take until a request that Caddy handled is in its log.
const unheardTime = time.Second

// Unheard reports whether a request whose exchange failed did not reach a handler. Such
// a failure is Caddy's own during a reload: the kernel had accepted the connection for
// a listener that was closed before the server took it, or the client wrote on a
// kept-alive connection that the server was about to close. Requests that reach a
// handler are in the access log, for which the site needs the directive log. mark must
// be in no other request's header or URI.
func (c *Caddy) Unheard(mark string) bool {
	time.Sleep(unheardTime)
	return len(c.Log.Lines(`"logger":"http.log.access`, mark)) == 0
}
