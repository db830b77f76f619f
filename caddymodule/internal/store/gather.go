package store

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"errors"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"time"
)

// A gather collects writes that arrive while others are on their way to a database server, and
// sends them in one transaction. Under load, the writes of several logins then share the
// transaction's statements, its turnarounds and its flush to the disk. A write that arrives alone
// is sent alone and at once.
//
// A write can be gathered only if nothing is wrong when it is made twice. If a common transaction
// fails for any reason, each of its writes is made once more, alone. So a write never fails because
// of another one.
type gather struct {
	// send sends writes in one transaction.
	send func(ctx context.Context, writes []*gathered) error

	mu      sync.Mutex
	waiting []*gathered
	running int
}

// gathered is a write that a gather sends. Its functions are called for each attempt.
type gathered struct {
	// rows names the rows that the write is decided by. Two writes that share a name never share a
	// transaction, where neither would see what the other writes.
	rows []string
	// questions returns the queries that the transaction begins with. It may be nil.
	questions func(*tx) []statement
	// statements returns the statements to send when the questions are answered, and the queries to
	// send after the COMMIT. If it returns an error, this write is not made.
	statements func(*tx) (writes, behind []statement, err error)

	err  error            // what statements has returned
	lead chan []*gathered // receives a batch that the caller of this write must send
	done chan error
}

const (
	// gatherAtOnce bounds the transactions that are on their way at the same time.
	gatherAtOnce = 4
	// gatherEnough is how many writes must be waiting for each transaction that is on its way,
	// before one more begins. A few large transactions cost the server less than many small ones.
	gatherEnough = 8
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
	if g.begins() {
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

// begins reports whether one more transaction begins now. The caller holds g.mu.
func (g *gather) begins() bool {
	return len(g.waiting) > 0 && len(g.waiting) >= gatherEnough*g.running && g.running < gatherAtOnce
}

// next takes the writes for the next transaction from the waiting ones. The caller holds g.mu.
func (g *gather) next() (batch []*gathered) {
	rows := make(map[string]bool)
	g.waiting = slices.DeleteFunc(g.waiting, func(w *gathered) bool {
		if len(batch) == gatherMost || slices.ContainsFunc(w.rows, func(row string) bool { return rows[row] }) {
			return false
		}
		for _, row := range w.rows {
			rows[row] = true
		}
		batch = append(batch, w)
		return true
	})
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
			w.done <- cmp.Or(err, w.err)
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		g.running--
		if g.begins() {
			g.running++
			next := g.next()
			next[0].lead <- next
		}
	}()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), gatherTimeout)
	defer cancel()
	if e := g.send(ctx, batch); e == nil || len(batch) == 1 && batch[0].err != nil {
		err = nil // or the one write was refused, which says nothing about the transaction
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
			return db.changing(ctx, pool, kind.how, func(t *tx) error { return t.together(writes...) })
		}}
	}
	return all
}

// together makes one or several writes in the transaction t, and commits it. Several writes take at
// most two turnarounds. A write among them that needs a further one, or whose statements have an
// order, is not made and gets errGathered.
//
// Statements are sorted by the rows that they lock. Otherwise two replicas that lock the same rows
// in different orders would wait for each other.
func (t *tx) together(all ...*gathered) error {
	t.shared = len(all) > 1
	var questions, writes []statement
	for _, w := range all {
		if w.questions != nil {
			questions = append(questions, w.questions(t)...)
		}
	}
	if len(questions) > 0 {
		slices.SortStableFunc(questions, byLocks)
		if err := t.send(false, questions...); err != nil {
			return err
		}
	}
	for _, w := range all {
		list, behind, err := w.statements(t)
		if err == nil && t.shared && slices.ContainsFunc(list, statement.ordered) {
			err = errGathered
		}
		w.err = err
		switch {
		case err == nil:
			writes, t.behind = append(writes, list...), append(t.behind, behind...)
		case !t.shared:
			return err
		}
	}
	if t.conn == nil {
		return t.send(true, writes...)
	}
	if !slices.ContainsFunc(writes, statement.ordered) {
		slices.SortStableFunc(writes, byLocks)
	}
	if len(t.behind) > 0 {
		t.behind = t.db.transacted(t.behind)
	}
	return t.send(true, joinRows(writes)...)
}

// ordered reports whether a statement must stay where it is among the others of its write: it
// writes, and not just one row that is named.
func (st statement) ordered() bool { return st.scan == nil && st.locks == nil }

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
// one statement. It joins 2, 4, 8 and so on, so that there are few different statements: PostgreSQL
// prepares each. It does not join statements for the same row, which PostgreSQL refuses.
func joinRows(list []statement) (joined []statement) {
	for len(list) > 0 {
		st, n := list[0], 1
		for st.rows != "" && n < len(list) && list[n].query == st.query && !bytes.Equal(list[n].locks, list[n-1].locks) {
			n++
		}
		n = 1 << (bits.Len(uint(n)) - 1)
		if n > 1 {
			st.query = strings.Replace(st.query, st.rows, st.rows+strings.Repeat(", "+st.rows, n-1), 1)
			st.args = slices.Clip(st.args)
			for _, other := range list[1:n] {
				st.args = append(st.args, other.args...)
			}
		}
		joined, list = append(joined, st), list[n:]
	}
	return joined
}

// gather makes a change. On a database server the change may share a transaction with others, see
// the type gather. may states what happens if the change was made alone, and it is unknown whether
// it was committed.
func (s *Store) gather(ctx context.Context, doing string, may repeat, how durability, w *gathered) (err error) {
	alone := func(t *tx) error { return t.together(w) }
	if s.db.dialect.oneWriter { // the queue collects its writes
		return s.change(ctx, doing, may, how, alone)
	}
	ctx, end := s.db.begin(ctx, doing)
	defer func() { end(s.db.proves(ctx), err) }()
	p, err := s.use(ctx)
	if err != nil {
		return err
	}
	err = p.gathers[gathering{how, guarded(ctx)}].write(ctx, w)
	if errors.Is(err, errGathered) {
		err = s.db.tries(ctx, p.write, may, func() error { return s.db.changing(ctx, p.write, how, alone) })
	}
	return s.db.wrap(ctx, doing+" in", s.explainMoved(ctx, err))
}
