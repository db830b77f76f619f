package store

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
	send func(ctx context.Context, writes []*grouped) error

	// soon is the time after which a transaction counts as slow. Zero: none does.
	soon time.Duration

	mu      sync.Mutex
	waiting []*grouped
	running int             // number of transactions that are on their way
	slow    int             // how many of them are slow
	busy    map[string]bool // the rows of the writes in them
}

// grouped is a write that a groupCommit sends. Its functions are called for each attempt.
type grouped struct {
	// rows names the rows that the write is decided by. Two writes that share a name never share a
	// transaction, where neither would see what the other writes.
	rows []string
	// questions returns the queries that the transaction begins with. It may be nil.
	questions func(*tx) []statement
	// statements returns the statements to send when the questions are answered, and the queries to
	// send after the COMMIT. If it returns an error, this write is not made.
	statements func(*tx) (writes, behind []statement, err error)

	err  error           // what statements has returned
	lead chan []*grouped // receives a batch that the caller of this write must send
	done chan error
}

const (
	// groupAtOnce bounds the transactions that are on their way at the same time.
	groupAtOnce = 4
	// groupEnough is how many writes must be waiting for each transaction that is on its way,
	// before one more begins. A few large transactions cost the server less than many small ones.
	groupEnough = 8
	// groupSoon is the time after which a transaction probably waits for a lock. Others then begin
	// as if it were not there.
	groupSoon = 100 * time.Millisecond
	// groupMost bounds the writes of one transaction.
	groupMost = 64
	// groupTimeout bounds a common transaction, which may wait for the lock of a replica that
	// hangs. It is short enough for each write to be made alone afterwards.
	groupTimeout = time.Second
)

// errGroup reports that a common transaction has failed.
var errGroup = errors.New("a transaction of several writes failed")

// write sends w, or waits until another caller has sent it. If ctx ends before w is on its way, w
// is not sent. After errGroup the caller must make the write alone.
func (g *groupCommit) write(ctx context.Context, w *grouped) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w.err, w.lead, w.done = nil, make(chan []*grouped, 1), make(chan error, 1)
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
			given = nil // w is on its way, for at most groupTimeout
		}
	}
}

// begin begins one more transaction if enough writes are waiting. It is sent by the caller of its
// first write, who waits for it in any case. begin is called with g.mu held.
func (g *groupCommit) begin() {
	if len(g.waiting) < max(1, groupEnough*(g.running-g.slow)) || g.running == groupAtOnce {
		return
	}
	if next := g.next(); len(next) > 0 {
		g.running++
		next[0].lead <- next
	}
}

// next takes the writes for the next transaction from the waiting ones. It leaves those that would
// wait for a write that is on its way. It is called with g.mu held.
func (g *groupCommit) next() (batch []*grouped) {
	if g.busy == nil {
		g.busy = make(map[string]bool)
	}
	g.waiting = slices.DeleteFunc(g.waiting, func(w *grouped) bool {
		if len(batch) == groupMost || slices.ContainsFunc(w.rows, func(row string) bool { return g.busy[row] }) {
			return false
		}
		for _, row := range w.rows {
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
func (g *groupCommit) lead(ctx context.Context, batch []*grouped) {
	err := errGroup
	over := g.slowly()
	defer func() {
		_ = recover()
		g.mu.Lock()
		defer g.mu.Unlock()
		for _, w := range batch {
			for _, row := range w.rows {
				delete(g.busy, row)
			}
			w.done <- cmp.Or(err, w.err)
		}
		over()
		g.running--
		g.begin()
	}()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), groupTimeout)
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
func (g *groupCommit) leave(w *grouped) bool {
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
	how     durability
	guarded bool // see moved.go
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
		one = &groupCommit{soon: groupSoon, send: func(ctx context.Context, writes []*grouped) error {
			return db.changing(ctx, pool, kind.how, func(t *tx) error { return t.together(writes...) })
		}}
		if g.all == nil {
			g.all = make(map[groupKind]*groupCommit)
		}
		g.all[kind] = one
	}
	return one
}

// group makes a change that may be made twice. On a database server the change may share a
// transaction with others, see groupCommit.
func (s *Store) group(ctx context.Context, doing string, how durability, w *grouped) error {
	if s.db.dialect.oneWriter { // the queue collects its writes
		return s.change(ctx, doing, again, how, func(t *tx) error { return t.together(w) })
	}
	return s.share(ctx, doing, s.db.proves(ctx), how, w)
}

// groupRead asks a question. On a database server it may share a transaction with others.
func (s *Store) groupRead(ctx context.Context, doing string, question func() statement) error {
	if s.db.dialect.oneWriter {
		return s.read(ctx, doing, func(t *tx) error { return t.questions(question()) })
	}
	return s.share(evenIfMoved(ctx), doing, false, durable, &grouped{statements: func(*tx) (_, _ []statement, _ error) {
		return []statement{question()}, nil, nil
	}})
}

// share makes a write on a database server. proves is as in [Store.making].
func (s *Store) share(ctx context.Context, doing string, proves bool, how durability, w *grouped) error {
	return s.making(ctx, doing, proves, func(ctx context.Context, p *pools) error {
		err := p.groups.of(groupKind{doing, how, guarded(ctx)}, s.db, p.write).write(ctx, w)
		if errors.Is(err, errGroup) {
			err = s.db.tries(ctx, p.write, again, func() error {
				return s.db.changing(ctx, p.write, how, func(t *tx) error { return t.together(w) })
			})
		}
		return err
	})
}
