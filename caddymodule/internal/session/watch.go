package session

import (
	"container/heap"
	"sync"
	"time"
)

// Connection is a connection that was upgraded under a token.
type Connection interface {
	// End is called once, when the session is revoked (with ErrEnded) or the token
	// expires (with ErrTokenExpired). It must not take long: others wait.
	End(why error)
}

// Watched is a connection that is watched.
type Watched conn

// Watch ends a connection when its time is over: at once when its session is
// revoked, or if it was before, and at the next Tick after its token has expired.
// The connection costs no timer and no goroutine.
func (r *Revoked) Watch(sessionID string, expires time.Time, connection Connection) *Watched {
	c := &conn{of: &r.watched, id: key(sessionID), expires: r.Clock.Steady(expires).UnixMilli(), connection: connection}
	if !r.watched.add(c) {
		connection.End(ErrEnded)
	} else if r.Contains(sessionID) && r.watched.remove(c) {
		// Only now: whoever revoked it before we were in the list did not see us.
		connection.End(ErrEnded)
	}
	return (*Watched)(c)
}

// Release is for when the connection is done. After it End is not called any
// more, but it may be running.
func (w *Watched) Release() { w.of.remove((*conn)(w)) }

// Close ends every watched connection, and those that come later at once: it is
// for when nobody calls Tick and Add any more, so that nobody else would.
func (r *Revoked) Close() {
	r.watched.endEvery(true)
}

// EndWatched ends every watched connection, because the tokens under which they were
// opened are not trusted any more.
func (r *Revoked) EndWatched() { r.watched.endEvery(false) }

func (w *watched) endEvery(closed bool) {
	w.mu.Lock()
	over := w.byExpiry
	w.byExpiry, w.bySession, w.closed = nil, make(map[sid]*conn), w.closed || closed
	for _, c := range over {
		c.at, c.prev, c.next = -1, nil, nil
	}
	w.mu.Unlock()
	endAll(over, ErrEnded)
}

// Watching counts the connections that are watched.
func (r *Revoked) Watching() int {
	r.watched.mu.Lock()
	defer r.watched.mu.Unlock()
	return len(r.watched.byExpiry)
}

// watched are the connections, found by their session and by their expiry.
type watched struct {
	mu        sync.Mutex
	bySession map[sid]*conn // the first of a list: a session may have several
	byExpiry  connHeap
	closed    bool
}

type conn struct {
	of         *watched
	id         sid
	expires    int64 // milliseconds since 1970, by the steady clock
	connection Connection
	prev, next *conn // those of the same session
	at         int   // place in the heap; -1 once removed
}

func (w *watched) init() { w.bySession = make(map[sid]*conn) }

// add reports false once nobody watches any more.
func (w *watched) add(c *conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		c.at = -1
		return false
	}
	if first := w.bySession[c.id]; first != nil {
		c.next, first.prev = first, c
	}
	w.bySession[c.id] = c
	heap.Push(&w.byExpiry, c)
	return true
}

// remove reports whether the connection was still watched.
func (w *watched) remove(c *conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	was := c.at >= 0
	w.unlink(c)
	return was
}

func (w *watched) unlink(c *conn) {
	if c.at < 0 {
		return
	}
	heap.Remove(&w.byExpiry, c.at)
	if c.next != nil {
		c.next.prev = c.prev
	}
	switch {
	case c.prev != nil:
		c.prev.next = c.next
	case c.next != nil:
		w.bySession[c.id] = c.next
	default:
		delete(w.bySession, c.id)
	}
	c.prev, c.next = nil, nil
}

// end ends the connections of a session.
func (w *watched) end(id sid, why error) {
	w.mu.Lock()
	var over []*conn
	for c := w.bySession[id]; c != nil; c = w.bySession[id] {
		w.unlink(c)
		over = append(over, c)
	}
	w.mu.Unlock()
	endAll(over, why)
}

// expire ends the connections whose token has expired.
func (w *watched) expire(now time.Time) {
	w.mu.Lock()
	var over []*conn
	for len(w.byExpiry) > 0 && w.byExpiry[0].expires <= now.UnixMilli() {
		c := w.byExpiry[0]
		w.unlink(c)
		over = append(over, c)
	}
	w.mu.Unlock()
	endAll(over, ErrTokenExpired)
}

// endAll runs without the lock, as End may release the watch.
func endAll(cs []*conn, why error) {
	for _, c := range cs {
		c.connection.End(why)
	}
}

// connHeap has the connection whose token expires first at its top.
type connHeap []*conn

func (h connHeap) Len() int           { return len(h) }
func (h connHeap) Less(i, j int) bool { return h[i].expires < h[j].expires }

func (h connHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}

func (h *connHeap) Push(x any) {
	c := x.(*conn)
	c.at = len(*h)
	*h = append(*h, c)
}

func (h *connHeap) Pop() any {
	last := len(*h) - 1
	c := (*h)[last]
	(*h)[last] = nil // or the connection would be kept alive
	*h = (*h)[:last]
	c.at = -1
	return c
}
