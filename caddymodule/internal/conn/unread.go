// Package conn does three things that net/http does not do. It discards a request body that a
// refusal leaves unread. It records whether the client broke off a body that is being passed on. It
// ends connections that were taken over, such as WebSockets. It knows nothing of tokens, sites or
// Caddy's packages.
package conn

import (
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// These bounds limit how much of a refused upload is read and discarded, and so what a
// client without a token can make the server receive.
const (
	maxUnread     = 64 << 20         // bytes per body
	maxUnreadTime = 60 * time.Second // per body
	unreadStep    = 64 << 10         // bytes that must arrive in unreadStepTime: 32 KiB/s
	// unreadStepTime is also the longest that a reader waits for a client, and so the
	// longest that it delays a shutdown.
	unreadStepTime = 2 * time.Second
	maxUnreadConns = 256 // connections at the same time, in the whole process
	// maxUnreadShare is how many of these one client may have. Otherwise one client could make
	// all others lose the refusals of their uploads.
	maxUnreadShare = maxUnreadConns / 2
)

// unreadConns counts the connections whose uploads are being discarded.
var unreadConns unreadCount

// unreadCount counts connections by client. The zero value is ready to use.
type unreadCount struct {
	mu  sync.Mutex
	all int
	of  map[netip.Prefix]int
}

// enter reports whether one more connection of a client may be read. If so, leave must follow. Only
// the bound for all applies to the zero client, whose network is unknown.
func (c *unreadCount) enter(client netip.Prefix) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all >= maxUnreadConns || client.IsValid() && c.of[client] >= maxUnreadShare {
		return false
	}
	if c.of == nil {
		c.of = make(map[netip.Prefix]int)
	}
	c.all++
	c.of[client]++
	return true
}

func (c *unreadCount) leave(client netip.Prefix) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all--
	if c.of[client]--; c.of[client] == 0 {
		delete(c.of, client)
	}
}

// StillSending reports whether the client of an HTTP/1 request may still be sending its
// body. In HTTP/2 and HTTP/3, the server ends the single stream instead.
func StillSending(r *http.Request) bool {
	return r.ProtoMajor == 1 && r.ContentLength != 0 && r.Body != nil && r.Body != http.NoBody
}

// DiscardUnread is called after the refusal of an upload that is still under way. Many clients read
// nothing before they have sent everything. Closing a connection with unread data resets it, so the
// client would lose the refusal. Therefore DiscardUnread flushes the answer, and reads and discards
// what arrives, within bounds. If the body did not end within them, it closes the connection, as
// the answer announces: the rest of the body must not be taken for the next request. The client is
// the network that the request came from, or zero where it is unknown.
func DiscardUnread(w http.ResponseWriter, r *http.Request, client netip.Prefix, exiting func() bool) {
	rc := http.NewResponseController(w)
	_ = rc.Flush() // if a directive such as intercept holds the answer, it is sent after the body
	if discard(rc, r, client, exiting) {
		return
	}
	// net/http would read for a while without a time limit before it closes the
	// connection.
	_ = rc.SetReadDeadline(time.Now())
	CloseInSteps(w)
}

// discard reads the body of r to its end. It returns false if a bound was reached,
// or the body broke, before the end.
func discard(rc *http.ResponseController, r *http.Request, client netip.Prefix, exiting func() bool) (whole bool) {
	if r.ContentLength > maxUnread || r.Header.Get("Expect") != "" {
		return false // a client that expects 100 Continue does not send its body before that
	}
	if !unreadConns.enter(client) {
		return false
	}
	defer unreadConns.leave(client)
	end := time.Now().Add(maxUnreadTime)
	buf := make([]byte, 32<<10)
	for total, step := 0, unreadStep; total <= maxUnread; {
		if step >= unreadStep { // the next step begins
			step = 0
			due := time.Now().Add(unreadStepTime)
			if due.After(end) {
				due = end
			}
			if rc.SetReadDeadline(due) != nil {
				return false
			}
		}
		n, err := r.Body.Read(buf)
		total, step = total+n, step+n
		switch {
		case err == io.EOF:
			return true
		case err != nil || !time.Now().Before(end) || exiting():
			return false
		}
	}
	return false
}

// CloseInSteps makes net/http close the connection as it does after a body that was too large:
// net/http sends a FIN, and waits half a second before it closes the socket. So even a client that
// reads while it sends gets the answer. Only [http.MaxBytesReader] can ask net/http for that.
func CloseInSteps(w http.ResponseWriter) {
	body := io.NopCloser(strings.NewReader("x"))
	_, _ = http.MaxBytesReader(Innermost(w), body, 0).Read(make([]byte, 1))
}

// Held reports whether a directive around this handler (intercept, for example) holds
// the answer back, to send it later or to replace it. The result is valid only after
// WriteHeader was called.
func Held(w http.ResponseWriter) bool {
	for {
		if rec, ok := w.(interface{ Buffered() bool }); ok && rec.Buffered() {
			return true
		}
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return false
		}
		w = u.Unwrap()
	}
}

// Innermost returns the server's own writer, below all wrappers that handlers have put
// around it.
func Innermost(w http.ResponseWriter) http.ResponseWriter {
	for {
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = u.Unwrap()
	}
}
