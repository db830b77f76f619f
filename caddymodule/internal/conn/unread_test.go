package conn

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// sender is a connection whose client sends some bytes after each pause.
type sender struct {
	http.ResponseWriter
	each   int
	pause  time.Duration
	left   int // bytes to come; negative: without end
	due    time.Time
	read   int
	client netip.Prefix
}

func (s *sender) SetReadDeadline(at time.Time) error {
	s.due = at
	return nil
}

func (s *sender) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	if time.Now().Add(s.pause).After(s.due) {
		time.Sleep(time.Until(s.due))
		return 0, os.ErrDeadlineExceeded
	}
	time.Sleep(s.pause)
	n := min(len(p), s.each)
	if s.left > 0 {
		n = min(n, s.left)
	}
	s.left -= n
	s.read += n
	return n, nil
}

func (s *sender) Close() error { return nil }

// upload returns a request whose body a sender sends.
func (s *sender) upload(length int64) *http.Request {
	s.ResponseWriter = httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodPost, "/", s)
	r.ContentLength = length
	return r
}

// discarded reads a body as after a refusal, and returns whether it ended.
func (s *sender) discarded(r *http.Request, exiting func() bool) (whole bool) {
	return discard(http.NewResponseController(s), r, s.client, exiting)
}

func staying() bool { return false }

// Clients without a token keep the server busy with uploads that it has refused: without an end,
// a few bytes at a time, or not at all. Each is read for a bounded time, and in a bounded amount.
// An ordinary upload is read to its end, over a slow line too.
func TestRefusedUploadsAreBounded(t *testing.T) {
	const mib = 1 << 20
	for name, c := range map[string]struct {
		client      sender
		length      int64
		expect      string
		exits       time.Duration // the server shuts down then
		whole       bool
		least, most int // bytes
		took        time.Duration
	}{
		"an ordinary one":            {client: sender{each: mib, left: 3 * mib}, length: 3 * mib, whole: true, least: 3 * mib, most: 3 * mib},
		"over a slow line":           {client: sender{each: 16 << 10, pause: 400 * time.Millisecond, left: mib}, length: mib, whole: true, least: mib, most: mib, took: 64 * 400 * time.Millisecond},
		"a body without an end":      {client: sender{each: mib, left: -1}, length: -1, least: maxUnread, most: maxUnread + 64<<10},
		"slow, and without an end":   {client: sender{each: 16 << 10, pause: 400 * time.Millisecond, left: -1}, length: -1, least: 2 * mib, most: 3 * mib, took: maxUnreadTime},
		"too slow":                   {client: sender{each: 1 << 10, pause: 100 * time.Millisecond, left: mib}, length: mib, least: 1 << 10, most: 64 << 10, took: unreadStepTime},
		"a client that is silent":    {client: sender{each: 1, pause: time.Hour, left: mib}, length: mib, took: unreadStepTime},
		"longer than is read":        {client: sender{each: mib, left: -1}, length: maxUnread + 1},
		"a client that waits":        {client: sender{each: mib, left: mib}, length: mib, expect: "100-continue"},
		"the server is to shut down": {client: sender{each: 16 << 10, pause: 400 * time.Millisecond, left: mib}, length: mib, exits: time.Second, least: 1, most: 64 << 10, took: 3 * 400 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, start := c.client, time.Now()
				r := s.upload(c.length)
				if c.expect != "" {
					r.Header.Set("Expect", c.expect)
				}
				whole := s.discarded(r, func() bool { return c.exits > 0 && time.Since(start) >= c.exits })
				if whole != c.whole || s.read < c.least || s.read > c.most || time.Since(start) != c.took {
					t.Errorf("whole %v, %d bytes in %s; want %v, %d to %d in %s", whole, s.read, time.Since(start), c.whole, c.least, c.most, c.took)
				}
			})
		})
	}
}

// Very many clients upload at once and are refused. Only so many connections are read at a time.
// The others are closed without being read, until one of those has ended. One client alone gets
// half of the places, unless its address is unknown.
func TestFewRefusedUploadsAreReadAtOnce(t *testing.T) {
	a, b, unknown := netip.MustParsePrefix("198.51.100.1/32"), netip.MustParsePrefix("2001:db8::/64"), netip.Prefix{}
	one := func(client netip.Prefix) bool {
		s := &sender{each: 10, left: 10, due: time.Now().Add(time.Hour), client: client}
		return s.discarded(s.upload(10), staying)
	}
	fill := func(client netip.Prefix) (n int) {
		for unreadConns.enter(client) {
			t.Cleanup(func() { unreadConns.leave(client) })
			n++
		}
		return n
	}
	if n := fill(a); n != maxUnreadShare || one(a) {
		t.Errorf("one client got %d places, and one more was read", n)
	}
	if !one(b) || !one(unknown) {
		t.Error("another client has to wait for this one")
	}
	if n := fill(unknown); n != maxUnreadConns-maxUnreadShare || one(b) || one(unknown) {
		t.Errorf("the others got %d places, and one more was read", n)
	}
	unreadConns.leave(a)
	defer unreadConns.enter(a)
	for range maxUnreadConns + 1 {
		if !one(b) {
			t.Fatal("a connection that has ended still counts")
		}
	}
}

// Only an HTTP/1 client with a body may still be sending: a refusal of any other request must not
// wait for it.
func TestWhoMayStillBeSending(t *testing.T) {
	for name, c := range map[string]struct {
		major  int
		length int64
		body   io.ReadCloser
		want   bool
	}{
		"an upload":         {1, 10, io.NopCloser(nil), true},
		"of unknown length": {1, -1, io.NopCloser(nil), true},
		"an empty body":     {1, 0, io.NopCloser(nil), false},
		"no body":           {1, -1, http.NoBody, false},
		"a request of ours": {1, 10, nil, false},
		"an HTTP/2 upload":  {2, 10, io.NopCloser(nil), false},
	} {
		if got := StillSending(&http.Request{ProtoMajor: c.major, ContentLength: c.length, Body: c.body}); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// buffering is the writer of a directive that holds the answer back, such as intercept.
type buffering struct {
	writer
	holds bool
}

func (b buffering) Buffered() bool { return b.holds }

// Directives around wx_auth have wrapped the writer. One of them holds the answer, at whatever
// depth. The server's own writer is below all of them.
func TestWritersAreUnwrapped(t *testing.T) {
	own := httptest.NewRecorder()
	for name, c := range map[string]struct {
		w    http.ResponseWriter
		held bool
	}{
		"the server's own": {own, false},
		"wrapped":          {writer{writer{own}}, false},
		"held inside":      {writer{buffering{writer{own}, true}}, true},
		"held outside":     {buffering{writer{writer{own}}, true}, true},
		"let through":      {writer{buffering{writer{own}, false}}, false},
	} {
		if Held(c.w) != c.held || Innermost(c.w) != http.ResponseWriter(own) {
			t.Errorf("%s: held %v, innermost %T", name, Held(c.w), Innermost(c.w))
		}
	}
}
