package sqldb

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"slices"
	"sync"
	"time"
)

// A groupCommit collects writes that arrive while others are on their way to a database server, and
// sends them in one transaction. Under load, the writes of several logins then share the
// transaction's statements, its turnarounds and its flush to the disk. A write that arrives alone
// is sent alone and at once.
//
// A write can take part only if nothing is wrong when it is made twice. If a common transaction
// fails for any reason, each of its writes is made once more, alone. So a write never fails because
// of another one.
type groupCommit struct {
	// send sends writes in one transaction.
	send Send

	// soon is the time after which a transaction counts as slow. Zero: none does.
	soon time.Duration

	mu      sync.Mutex
	waiting []*Grouped
	running int             // number of transactions that are on their way
	slow    int             // how many of them are slow
	busy    map[string]bool // the rows of the writes in them
}

// Grouped is a write that a groupCommit sends. Its functions are called for each attempt.
type Grouped struct {
	// Rows names the rows that the write is decided by. Two writes that share a name never share a
	// transaction, where neither would see what the other writes.
	Rows []string
	// Questions returns the queries that the transaction begins with. It may be nil.
	Questions func(*Tx) []Statement
	// Statements returns the statements to send when the questions are answered, and the queries to
	// send after the COMMIT. If it returns an error, this write is not made.
	Statements func(*Tx) (writes, behind []Statement, err error)

	err  error           // what Statements has returned
	lead chan []*Grouped // receives a batch that the caller of this write must send
	done chan error
}

const (
	// groupAtOnce bounds the transactions that are on their way at the same time.
	groupAtOnce = 4
	// GroupEnough is how many writes must be waiting for each transaction that is on its way,
	// before one more begins. A few large transactions cost the server less than many small ones.
	GroupEnough = 8
	// groupSoon is the time after which a transaction probably waits for a lock. Others then begin
	// as if it were not there.
	groupSoon = 100 * time.Millisecond
	// groupMost bounds the writes of one transaction.
	groupMost = 64
	// GroupTimeout bounds a common transaction, which may wait for the lock of a replica that
	// hangs. It is short enough for each write to be made alone afterwards.
	GroupTimeout = time.Second
)

// ErrGroup reports that a common transaction has failed.
var ErrGroup = errors.New("a transaction of several writes failed")

// write sends w, or waits until another caller has sent it. If ctx ends before w is on its way, w
// is not sent. After ErrGroup the caller must make the write alone.
func (g *groupCommit) write(ctx context.Context, w *Grouped) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w.err, w.lead, w.done = nil, make(chan []*Grouped, 1), make(chan error, 1)
	g.mu.Lock()
	g.waiting = append(g.waiting, w)
	g.begin()
	g.mu.Unlock()
	given := ctx.Done()
	for {
		select {
		case batch := <-w.lead:
			g.lead(ctx, batch)
		case err := <-w.done:
			return err
		case <-given:
			if g.leave(w) {
				return ctx.Err()
			}
			given = nil // w is on its way, for at most GroupTimeout
		}
	}
}

// begin begins one more transaction if enough writes are waiting. It is sent by the caller of its
// first write, who waits for it in any case. begin is called with g.mu held.
func (g *groupCommit) begin() {
	if len(g.waiting) < max(1, GroupEnough*(g.running-g.slow)) || g.running == groupAtOnce {
		return
	}
	if next := g.next(); len(next) > 0 {
		g.running++
		next[0].lead <- next
	}
}

// next takes the writes for the next transaction from the waiting ones. It leaves those that would
// wait for a write that is on its way. It is called with g.mu held.
func (g *groupCommit) next() (batch []*Grouped) {
	if g.busy == nil {
		g.busy = make(map[string]bool)
	}
	g.waiting = slices.DeleteFunc(g.waiting, func(w *Grouped) bool {
		if len(batch) == groupMost || slices.ContainsFunc(w.Rows, func(row string) bool { return g.busy[row] }) {
			return false
		}
		for _, row := range w.Rows {
			g.busy[row] = true
		}
		batch = append(batch, w)
		return true
	})
	return batch
}

// lead sends a batch. If writes are waiting afterwards, the caller of the first of them sends the
// next batch. A panic is only a failure of the batch, because another caller's write may have
// caused it. That write panics again when it is made alone.
func (g *groupCommit) lead(ctx context.Context, batch []*Grouped) {
	err := ErrGroup
	over := g.slowly()
	defer func() {
		_ = recover()
		g.mu.Lock()
		defer g.mu.Unlock()
		for _, w := range batch {
			for _, row := range w.Rows {
				delete(g.busy, row)
			}
			w.done <- cmp.Or(err, w.err)
		}
		over()
		g.running--
		g.begin()
	}()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), GroupTimeout)
	defer cancel()
	if e := g.send(ctx, batch); e == nil || len(batch) == 1 && batch[0].err != nil {
		err = nil // or the one write was refused, which says nothing about the transaction
	}
}

// slowly counts a transaction that begins now as slow once it has lasted for g.soon. When the
// transaction is over, the caller must call over while it holds g.mu.
func (g *groupCommit) slowly() (over func()) {
	if g.soon == 0 {
		return func() {}
	}
	ended, counted := false, false
	timer := time.AfterFunc(g.soon, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if !ended {
			counted = true
			g.slow++
			g.begin()
		}
	})
	return func() {
		timer.Stop()
		if ended = true; counted {
			g.slow--
		}
	}
}

// leave removes a write from the waiting ones. It returns false if the write is already on its way.
func (g *groupCommit) leave(w *Grouped) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.Index(g.waiting, w)
	if i >= 0 {
		g.waiting = slices.Delete(g.waiting, i, i+1)
	}
	return i >= 0
}

// groupKind is a kind of write. Only writes of the same kind share a transaction.
type groupKind struct {
	doing   string
	how     Durability
	guarded bool // see Guard
}

// groups has a groupCommit for each kind of write.
type groups struct {
	mu  sync.Mutex
	all map[groupKind]*groupCommit
}

// of returns the groupCommit for a kind of write to a pool.
func (g *groups) of(kind groupKind, db *DB, pool *sql.DB) *groupCommit {
	g.mu.Lock()
	defer g.mu.Unlock()
	one := g.all[kind]
	if one == nil {
		one = &groupCommit{soon: groupSoon, send: func(ctx context.Context, writes []*Grouped) error {
			return db.changing(ctx, pool, kind.how, func(t *Tx) error { return t.Together(writes...) })
		}}
		if g.all == nil {
			g.all = make(map[groupKind]*groupCommit)
		}
		g.all[kind] = one
	}
	return one
}
