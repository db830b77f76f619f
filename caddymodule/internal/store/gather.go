package store

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"
)

// A gather collects writes that arrive while others are on their way to a database server, and
// sends them in one transaction. Under load, the writes of several logins then share the
// transaction's statements, its turnaround and its flush to the disk. A write that arrives alone is
// sent alone and at once.
//
// A write can be gathered only if its statements do not depend on an earlier answer, and if it has
// the same result when it is made twice. If a common transaction fails for any reason, each of its
// writes is made once more, alone. So a write never fails because of another one.
type gather struct {
	// send sends writes in one transaction.
	send func(ctx context.Context, writes []*gathered) error

	mu      sync.Mutex
	waiting []*gathered
	running int
}

// gathered is a write that a gather sends.
type gathered struct {
	// statements returns the statements to send, and the queries to send after the COMMIT. It is
	// called for each attempt.
	statements func() (writes, behind []statement)

	lead chan []*gathered // receives a batch that the caller of this write must send
	done chan error
}

const (
	// gatherAtOnce bounds the common transactions that are on their way at the same time.
	gatherAtOnce = 4
	// gatherMost bounds the writes of one transaction.
	gatherMost = 64
	// gatherTimeout bounds a common transaction, which may wait for the lock of a replica that
	// hangs. It is short enough for each write to be made alone afterwards.
	gatherTimeout = time.Second
)

// errGathered reports that a common transaction has failed.
var errGathered = errors.New("a transaction of several writes failed")

// write sends w, or waits until another caller has sent it. If ctx ends before w is on its way, w
// is not sent. After errGathered the caller must make the write alone.
func (g *gather) write(ctx context.Context, w *gathered) error {
	w.lead, w.done = make(chan []*gathered, 1), make(chan error, 1)
	g.mu.Lock()
	g.waiting = append(g.waiting, w)
	if g.running < gatherAtOnce {
		g.running++
		w.lead <- g.next()
	}
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
			given = nil // w is on its way, for at most gatherTimeout
		}
	}
}

// next takes the writes for the next transaction from the waiting ones. The caller holds g.mu.
func (g *gather) next() []*gathered {
	n := min(len(g.waiting), gatherMost)
	batch := g.waiting[:n:n]
	g.waiting = g.waiting[n:]
	return batch
}

// lead sends a batch. If writes are waiting afterwards, the caller of the first of them sends the
// next batch. A panic is only a failure of the batch, because another caller's write may have
// caused it. That write panics again when it is made alone.
func (g *gather) lead(ctx context.Context, batch []*gathered) {
	err := errGathered
	defer func() {
		_ = recover()
		for _, w := range batch {
			w.done <- err
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		if len(g.waiting) == 0 {
			g.running--
			return
		}
		next := g.next()
		next[0].lead <- next
	}()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), gatherTimeout)
	defer cancel()
	if e := g.send(ctx, batch); e == nil {
		err = nil
	}
}

// leave removes a write from the waiting ones. It returns false if the write is already on its way.
func (g *gather) leave(w *gathered) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.Index(g.waiting, w)
	if i >= 0 {
		g.waiting = slices.Delete(g.waiting, i, i+1)
	}
	return i >= 0
}

// gathering is a kind of write. Only writes of the same kind share a transaction.
type gathering struct {
	how     durability
	guarded bool // see moved.go
}

// newGathers returns a gather for each kind of write.
func newGathers(db *DB, pool *sql.DB) map[gathering]*gather {
	all := map[gathering]*gather{}
	for _, kind := range []gathering{{durable, true}, {durable, false}, {light, true}, {light, false}} {
		all[kind] = &gather{send: func(ctx context.Context, writes []*gathered) error {
			return db.together(ctx, pool, kind.how, writes)
		}}
	}
	return all
}

// together sends writes in one transaction. It sorts their statements by the rows that they lock.
// Otherwise two replicas that lock the same rows in different orders would wait for each other.
func (db *DB) together(ctx context.Context, pool *sql.DB, how durability, all []*gathered) error {
	return db.changing(ctx, pool, how, func(t *tx) error {
		t.shared = len(all) > 1
		var writes []statement
		for _, w := range all {
			list, behind := w.statements()
			writes, t.behind = append(writes, list...), append(t.behind, behind...)
		}
		slices.SortStableFunc(writes, byLocks)
		if db.dialect.joins {
			writes = joinRows(writes)
		}
		if len(t.behind) > 0 {
			t.behind = db.transacted(t.behind)
		}
		return t.send(true, writes...)
	})
}

// byLocks orders statements by query and by the row that they lock. Statements that lock no row
// come last.
func byLocks(a, b statement) int {
	if (a.locks == nil) != (b.locks == nil) {
		return len(b.locks) - len(a.locks)
	}
	return cmp.Or(strings.Compare(a.query, b.query), bytes.Compare(a.locks, b.locks))
}

// onRow records which row a statement locks. rows is the part of the query that is repeated,
// separated by commas, when several such statements are joined into one.
func onRow(key []byte, rows string, st statement) statement {
	st.locks, st.rows = key, rows
	return st
}

// joinRows joins adjacent statements that have the same query, and differ only in their row, into
// one statement.
func joinRows(list []statement) (joined []statement) {
	for len(list) > 0 {
		st, n := list[0], 1
		for st.rows != "" && n < len(list) && list[n].query == st.query {
			st.args = slices.Concat(st.args, list[n].args)
			n++
		}
		st.query = strings.Replace(st.query, st.rows, st.rows+strings.Repeat(", "+st.rows, n-1), 1)
		joined, list = append(joined, st), list[n:]
	}
	return joined
}

// gather makes a change that has the same result when it is made twice, and whose statements do not
// depend on an earlier answer. On a database server the change may share a transaction with others,
// see the type gather. statements returns the statements, and the queries to send after the COMMIT.
// It is called for each attempt.
func (s *Store) gather(ctx context.Context, doing string, how durability, statements func() (writes, behind []statement)) (err error) {
	if s.db.dialect.oneWriter { // the queue collects its writes
		return s.change(ctx, doing, again, how, func(t *tx) error {
			writes, _ := statements()
			return t.send(true, writes...)
		})
	}
	ctx, end := s.db.begin(ctx, doing)
	defer func() { end(s.db.proves(ctx), err) }()
	p, err := s.use(ctx)
	if err != nil {
		return err
	}
	w := &gathered{statements: statements}
	err = p.gathers[gathering{how, guarded(ctx)}].write(ctx, w)
	if errors.Is(err, errGathered) {
		err = s.db.tries(ctx, p.write, again, func() error { return s.db.together(ctx, p.write, how, []*gathered{w}) })
	}
	return s.db.wrap(ctx, doing+" in", s.explainMoved(ctx, err))
}
