package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

// A queue collects the writes that arrive while the database is busy, and runs them in one
// transaction. It also collects the transactions that commit while the disk is busy, and flushes
// them at once. SQLite allows one writer at a time, and would block all others while it waits for
// the disk.
//
// Each write keeps the guarantees of a transaction: it happens completely or not at all, it is on
// disk when its caller gets the result, and a failed write does not affect the others. Callers of
// light writes get the result earlier: a power cut may undo these, together with everything written
// after them.
//
// With synchronous = NORMAL, SQLite commits to its log without waiting for the disk. It waits only
// before and after it moves the log into the file. So the queue flushes the log after a commit, and
// then this commit is on disk.
type queue struct {
	pool  *sql.DB      // has one connection
	flush func() error // waits until the log is on disk

	mu       sync.Mutex
	waiting  []*pendingWrite
	running  bool
	written  []*pendingWrite // committed, but maybe not on disk yet
	flushing bool
	closed   bool
	runs     sync.WaitGroup
}

// pendingWrite is a write in the queue.
type pendingWrite struct {
	change  func(*Tx) error
	guarded bool // see Guard
	how     Durability
	begun   bool // guarded by queue.mu
	done    chan error
}

// run makes the write on its own.
func (w *pendingWrite) run(t *Tx) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = panicked{p, debug.Stack()}
		}
	}()
	if w.guarded {
		if err := t.check(); err != nil {
			return err
		}
	}
	return w.change(t)
}

// panicked is the panic of a write. The queue's goroutine must survive it. The write's caller
// panics instead.
type panicked struct {
	value any
	stack []byte
}

func (p panicked) Error() string { return fmt.Sprintf("%v\n\n%s", p.value, p.stack) }

const (
	// batchSize bounds the number of writes in one commit. So it bounds how long the first write
	// waits for the statements of the others.
	batchSize = 64

	// gatherFor is how long the queue waits for more writes after a batch of several. A transaction
	// itself costs as much as ten statements of such writes.
	gatherFor = 500 * time.Microsecond

	// batchTimeout bounds how long a batch waits for the write lock. It is longer than busyTimeout,
	// SQLite's own wait for another process.
	batchTimeout = 10 * time.Second
)

// write makes a write in a transaction that it may share with others. If ctx ends before the write
// has begun, it is not made. Once it has begun, it runs to its end. An interrupted statement would
// make the whole batch fail.
func (q *queue) write(ctx context.Context, db *DB, w *pendingWrite) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w.done = make(chan error, 1)
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

	var err error
	select {
	case err = <-w.done:
	case <-ctx.Done():
		if q.leave(w) {
			return ctx.Err()
		}
		err = <-w.done
	}
	var p panicked
	if errors.As(err, &p) {
		panic(p)
	}
	return err
}

// leave removes a write from the queue. It returns false if the write has begun.
func (q *queue) leave(w *pendingWrite) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !w.begun {
		q.waiting = slices.DeleteFunc(q.waiting, func(other *pendingWrite) bool { return other == w })
	}
	return !w.begun
}

// close refuses further writes and waits for those in the queue.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.runs.Wait()
}

// run commits batches until no write is waiting.
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

// commit runs a batch and sends each writer its result.
func (q *queue) commit(db *DB, batch []*pendingWrite) {
	results, err := q.together(db, batch)
	if err != nil && len(batch) > 1 && !errors.Is(err, context.DeadlineExceeded) {
		// The whole batch was undone. When each write runs alone, only the one that fails gets the
		// error.
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
		case results[i] != nil || w.how == Light:
			w.done <- results[i]
		default:
			written = append(written, w)
		}
	}
	q.answerOnDisk(written)
}

// answerOnDisk sends the writers their result once their writes are on disk.
func (q *queue) answerOnDisk(written []*pendingWrite) {
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
				err = fmt.Errorf("%w: %w", ErrUnavailable, err) // the write was committed, but a power cut may undo it
			}
			for _, w := range written {
				w.done <- err
			}
		}
	})
}

// oneWrite names the savepoint of each write of a batch.
const oneWrite = "one_write"

// errOneWrite undoes a batch without savepoints after one of its writes has failed.
var errOneWrite = errors.New("one of the writes failed")

// together runs the batch in one transaction. Usually no write fails. If one does, the transaction
// is undone and run again with a savepoint for each write, which costs each write two or three more
// statements. err is the error of the transaction. If it is set, nothing was written.
func (q *queue) together(db *DB, batch []*pendingWrite) (results []error, err error) {
	results = make([]error, len(batch))
	if len(batch) == 1 {
		return results, q.transaction(db, batch[0].run)
	}
	err = q.transaction(db, func(t *Tx) error {
		for _, w := range batch {
			if err := w.run(t); err != nil {
				return fmt.Errorf("%w: %w", errOneWrite, err)
			}
		}
		return nil
	})
	if !errors.Is(err, errOneWrite) {
		return results, err
	}
	return results, q.transaction(db, func(t *Tx) error {
		for i, w := range batch {
			if _, err := t.Exec(`SAVEPOINT ` + oneWrite); err != nil {
				return err
			}
			if results[i] = w.run(t); results[i] != nil {
				if _, err := t.Exec(`ROLLBACK TO ` + oneWrite); err != nil {
					return err
				}
			}
			if _, err := t.Exec(`RELEASE ` + oneWrite); err != nil {
				return err
			}
		}
		return nil
	})
}

// transaction runs change in a transaction. batchTimeout applies only until the transaction has the
// write lock. The statements after that wait for nobody, so they have no deadline, which would cost
// a goroutine for each of them.
func (q *queue) transaction(db *DB, change func(*Tx) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), batchTimeout)
	defer cancel()
	return db.Transaction(ctx, q.pool, Once, func(t *Tx) error {
		return change(&Tx{ctx: context.WithoutCancel(ctx), db: t.db, q: t.q})
	})
}
