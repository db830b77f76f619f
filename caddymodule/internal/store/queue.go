package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"time"
)

// A queue gathers the writes that arrive while the database is busy with earlier
// ones into one transaction, and the transactions that are committed while the disk
// is busy into one wait for the disk. SQLite lets one writer in at a time, and would
// keep the others out while it waits.
//
// Each write keeps a transaction's promise: it happens as a whole or not at
// all, is on disk when its caller hears of it, and one that fails takes none of
// the others with it. Light writes are told before they are on disk: a power cut may
// undo them, with everything that was written after them.
//
// SQLite's part is to commit into its log without a wait (synchronous = NORMAL), and to
// wait for the disk itself before and after it moves the log into the file. What has been
// committed is on disk, therefore, when the log, as it is then, has been flushed.
type queue struct {
	pool  *sql.DB      // of one connection
	flush func() error // waits until the log is on disk

	mu       sync.Mutex
	waiting  []*pendingWrite
	running  bool
	written  []*pendingWrite // committed, and not known to be on disk
	flushing bool
	closed   bool
	runs     sync.WaitGroup
}

type pendingWrite struct {
	change func(*tx) error
	how    durability
	begun  bool // guarded by queue.mu
	done   chan error
}

const (
	// batchSize bounds how much one commit carries, and so how long its first
	// write waits for the others' statements.
	batchSize = 64

	// gatherFor is how long others gather once there are several at a time: what a
	// transaction costs by itself is as much as ten of their statements.
	gatherFor = 500 * time.Microsecond

	// batchTimeout bounds a batch that has begun. It is longer than the wait
	// for another process's lock (busyTimeout).
	batchTimeout = 10 * time.Second
)

// write runs change in a transaction that it may share with others. When ctx
// ends before it has begun, it does not happen; once begun it is seen through,
// since an interrupted statement would take the whole batch with it.
func (q *queue) write(ctx context.Context, db *DB, how durability, change func(*tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w := &pendingWrite{change: change, how: how, done: make(chan error, 1)}
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return fmt.Errorf("%w: closed", ErrUnavailable)
	}
	q.waiting = append(q.waiting, w)
	if !q.running {
		q.running = true
		q.runs.Add(1)
		go q.run(db)
	}
	q.mu.Unlock()

	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
	}
	q.mu.Lock()
	begun := w.begun
	if !begun {
		for i, other := range q.waiting {
			if other == w {
				q.waiting = append(q.waiting[:i], q.waiting[i+1:]...)
				break
			}
		}
	}
	q.mu.Unlock()
	if !begun {
		return ctx.Err()
	}
	return <-w.done
}

// close refuses further writes and waits for those that wait.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.runs.Wait()
}

// run works until nothing waits any more.
func (q *queue) run(db *DB) {
	defer q.runs.Done()
	for {
		q.mu.Lock()
		n := min(len(q.waiting), batchSize)
		if n == 0 {
			q.running = false
			q.mu.Unlock()
			return
		}
		batch := q.waiting[:n:n]
		q.waiting = q.waiting[n:]
		for _, w := range batch {
			w.begun = true
		}
		q.mu.Unlock()
		q.commit(db, batch)
		if n > 1 {
			time.Sleep(gatherFor)
		}
	}
}

// commit runs a batch and tells every writer how it ended.
func (q *queue) commit(db *DB, batch []*pendingWrite) {
	results, err := q.together(db, batch)
	if err != nil && len(batch) > 1 && !errors.Is(err, context.DeadlineExceeded) {
		// The batch as a whole was undone; find out whose fault it was.
		for _, w := range batch {
			q.commit(db, []*pendingWrite{w})
		}
		return
	}
	var written []*pendingWrite
	for i, w := range batch {
		switch {
		case err != nil:
			w.done <- err
		case results[i] != nil || w.how == light:
			w.done <- results[i]
		default:
			written = append(written, w)
		}
	}
	q.settle(written)
}

// settle tells writers that their writes are on disk, when they are.
func (q *queue) settle(written []*pendingWrite) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.written = append(q.written, written...)
	if len(q.written) == 0 || q.flushing {
		return
	}
	q.flushing = true
	q.runs.Go(func() {
		for {
			q.mu.Lock()
			written := q.written
			q.written = nil
			q.flushing = len(written) > 0
			q.mu.Unlock()
			if len(written) == 0 {
				return
			}
			err := q.flush()
			if err != nil {
				err = fmt.Errorf("%w: %w", ErrUnavailable, err) // it has happened, and may be undone
			}
			for _, w := range written {
				w.done <- err
			}
		}
	})
}

// oneWrite names the savepoint of each write of a batch.
const oneWrite = "one_write"

// errOneWrite undoes a batch without savepoints, as one of its writes failed.
var errOneWrite = errors.New("one of the writes failed")

// together runs the batch in one transaction. As a rule nothing in it fails. If a
// write does, all is undone and run again, each write behind a savepoint of its own:
// two statements more a write than most batches need. The error is that of the
// transaction: nothing of it happened.
func (q *queue) together(db *DB, batch []*pendingWrite) (results []error, err error) {
	results = make([]error, len(batch))
	if len(batch) == 1 {
		return results, q.transaction(db, batch[0].change)
	}
	err = q.transaction(db, func(t *tx) error {
		for _, w := range batch {
			if err := w.change(t); err != nil {
				return fmt.Errorf("%w: %w", errOneWrite, err)
			}
		}
		return nil
	})
	if !errors.Is(err, errOneWrite) {
		return results, err
	}
	return results, q.transaction(db, func(t *tx) error {
		for i, w := range batch {
			if _, err := t.exec(`SAVEPOINT ` + oneWrite); err != nil {
				return err
			}
			if results[i] = w.change(t); results[i] != nil {
				if _, err := t.exec(`ROLLBACK TO ` + oneWrite); err != nil {
					return err
				}
			}
			if _, err := t.exec(`RELEASE ` + oneWrite); err != nil {
				return err
			}
		}
		return nil
	})
}

// transaction runs change in a transaction with the batch's deadline. It is kept
// where something waits: at the lock, before it begins. The statements behind it wait
// for nobody, and are not watched, which would cost each of them a goroutine.
func (q *queue) transaction(db *DB, change func(*tx) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), batchTimeout)
	defer cancel()
	return db.transaction(ctx, q.pool, once, func(t *tx) error {
		return change(&tx{ctx: context.WithoutCancel(ctx), db: t.db, q: t.q})
	})
}
