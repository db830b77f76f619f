package session

import (
	"container/heap"
	"sync"
	"time"
)

// Connection is a connection that was upgraded under a token.
type Connection interface {
	// End is called once: when the session is revoked (with ErrEnded) or when the token
	// expires (with ErrTokenExpired). It must return quickly, because it holds up the
	// ends of other connections.
	End(why error)
}

// Watched is the handle of a watched connection.
type Watched conn

// Watch ends the connection when its session is revoked (at once if it already is), or
// at the next Tick after its token has expired. A watched connection needs no timer and
// no goroutine.
func (r *Revoked) Watch(sessionID string, expires time.Time, connection Connection) *Watched {
	c := &conn{of: &r.watched, id: key(sessionID), expires: r.Clock.Steady(expires).UnixMilli(), connection: connection}
	if !r.watched.add(c) {
		connection.End(ErrEnded)
	} else if r.Contains(sessionID) && r.watched.remove(c) {
		// Check again now: a revocation that came before the connection was in the list
		// has not seen it.
		connection.End(ErrEnded)
	}
	return (*Watched)(c)
}

// Release stops the watch when the connection is done. End is not called after that,
// but a call that has already begun may still be running.
func (w *Watched) Release() { w.of.remove((*conn)(w)) }

// Close ends every watched connection, and each later one as soon as it is watched.
// Call it when nothing calls Tick and Add any more, because then nothing else would end
// them.
func (r *Revoked) Close() {
	r.watched.endEvery(true)
}

// EndWatched ends every watched connection, because the tokens under which they were
// opened are no longer trusted.
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

// Watching returns the number of watched connections.
func (r *Revoked) Watching() int {
	r.watched.mu.Lock()
	defer r.watched.mu.Unlock()
	return len(r.watched.byExpiry)
}

// watched holds the connections, indexed by session and by expiry.
type watched struct {
	mu        sync.Mutex
	bySession map[sid]*conn // the head of a list: a session may have several connections
	byExpiry  connHeap
	closed    bool
}

type conn struct {
	of         *watched
	id         sid
	expires    int64 // milliseconds since 1970, by the steady clock
	connection Connection
	prev, next *conn // other connections of the same session
	at         int   // index in the heap; -1 once removed
}

func (w *watched) init() { w.bySession = make(map[sid]*conn) }

// add returns false after Close.
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

// endAll must be called without the lock, because End may call Release.
func endAll(cs []*conn, why error) {
	for _, c := range cs {
		c.connection.End(why)
	}
}

// connHeap is a heap with the connection whose token expires first on top.
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
	(*h)[last] = nil // so that the connection can be collected
	*h = (*h)[:last]
	c.at = -1
	return c
}
