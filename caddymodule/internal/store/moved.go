package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/remedy"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
)

// A store that was moved to another database is closed: it accepts no more writes. Otherwise a
// logout after its row was copied would be lost. The row movedName in meta closes the store. Every
// writing transaction first takes a lock, which it holds to its end, and then looks for the row.
// The move waits for that lock. So once the row is committed, no transaction that did not see it is
// under way. Reading continues, and tokens stay valid.

// ErrMoved reports that the store is closed, because it was moved to another database or is being
// moved. It comes with ErrUnavailable.
var ErrMoved = errors.New("the store was moved")

// movedName is the row of meta that closes a store. It sorts after keyCheckName, so MySQL locks the
// row keyCheckName first, and then looks for this one.
const movedName = "moved_to"

// fillingName is the row of meta with the state of a move that fills the store.
const fillingName = "filling"

// Moved names the store to which a store was moved.
type Moved struct {
	// To names the other database, without credentials.
	To string `json:"to"`
	// ID differs each time the store is closed.
	ID string `json:"id"`
	// Done is set once everything was moved.
	Done bool `json:"done"`
}

// movedError is ErrMoved, with the store to which it was moved.
type movedError struct{ Moved }

func (e movedError) Error() string {
	if e.Done {
		return "it was moved to " + e.To + ", and accepts no more writes"
	}
	return "it is being moved to " + e.To + ", and accepts no more writes"
}

func (movedError) Is(target error) bool { return target == ErrMoved || target == ErrUnavailable }

// Remedy returns what the operator has to do.
func (e movedError) Remedy() string {
	if e.Done {
		return "write the store " + e.To + " into the configuration and reload; `caddy wx-auth move --undo` opens this one again"
	}
	return "wait for `caddy wx-auth move`, or run it again if it was interrupted, and then reload with the new store; `caddy wx-auth move --undo` opens this one again"
}

// Heading returns the heading for the log.
func (movedError) Heading() remedy.Heading { return remedy.StoreMoved }

// evenIfMoved returns a context for writes that even a closed store accepts: writes for logins that
// began before, of rows that are not copied, or for the move itself.
func evenIfMoved(ctx context.Context) context.Context { return sqldb.Unguarded(ctx) }

// isOpen fails if the store is closed: the subquery has two rows then. On MySQL, its lock makes
// closeAlone wait for the transaction.
const isOpen = `SELECT (SELECT 1 FROM {meta} WHERE name IN ('` + keyCheckName + `', '` + movedName + `') {share})`

// postgresOpenLock is the number of the advisory lock that every writing transaction shares. To
// close the store takes the same lock exclusively. The table's number keeps stores in several
// schemas of one database apart.
const postgresOpenLock = `hashtext('caddy-wx-auth open ' || '{meta}'::regclass::oid)`

// moveLock is how the transactions on one kind of server see that the store is closed.
type moveLock struct {
	// first holds the first statements of each transaction that writes.
	first []string
	// closeAlone waits until no other transaction that writes is under way, and makes new ones wait
	// until its own transaction ends.
	closeAlone string
}

// moveLocks has none for SQLite, where only one transaction writes at a time, and calls checkOpen.
var moveLocks = map[string]moveLock{
	// The lock is taken by a statement of its own. So the query after it sees everything that was
	// committed while it waited.
	"postgres": {
		first:      []string{`SELECT pg_advisory_xact_lock_shared(` + postgresOpenLock + `)`, isOpen},
		closeAlone: `SELECT pg_advisory_xact_lock(` + postgresOpenLock + `)`,
	},
	"mysql": {
		first:      []string{isOpen},
		closeAlone: `SELECT name FROM {meta} WHERE name = '` + keyCheckName + `' FOR UPDATE`,
	},
}

// guardOf returns the guard of a kind of database, given an address.
func guardOf(address string) sqldb.Guard {
	return sqldb.Guard{Statements: moveLocks[sqldb.KindOf(address).Name].first, Check: checkOpen}
}

// checkOpen returns an error if the store is closed. It is enough to ask once in a transaction,
// because a move copies the store only after the transactions that began before.
func checkOpen(t *sqldb.Tx) error {
	m, err := readMoved(t)
	if err == nil && m != nil {
		err = movedError{*m}
	}
	return err
}

// readMoved returns the store to which this one was moved, or nil if it is open.
func readMoved(t *sqldb.Tx) (*Moved, error) {
	var value []byte
	err := t.Row(`SELECT value FROM {meta} WHERE name = ?`, movedName).Scan(&value)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m := new(Moved)
	if err := json.Unmarshal(value, m); err != nil {
		return nil, fmt.Errorf("the row %s of meta: %w", movedName, err)
	}
	return m, nil
}

// MovedTo returns the store to which this one was moved, or nil if it is open.
func (s *Store) MovedTo(ctx context.Context) (m *Moved, err error) {
	err = s.sql.Read(ctx, "reading the row moved_to", func(t *sqldb.Tx) (err error) {
		m, err = readMoved(t)
		return err
	})
	return m, err
}

// explainMoved replaces the error of a guard with a movedError. It also records in the DB whether
// the store is closed.
func (s *Store) explainMoved(ctx context.Context, err error) error {
	if err != nil && s.db.sql.Dialect.SeveralRows(err) {
		m, readErr := s.MovedTo(ctx)
		if readErr != nil || m == nil {
			return errors.Join(err, readErr)
		}
		err = movedError{*m}
	}
	if moved := errors.Is(err, ErrMoved); moved || err == nil && sqldb.Guarded(ctx) {
		s.db.moved.Store(moved)
	}
	return err
}

// proves reports whether the success of a write proves that the store can be written. A write that
// even a closed store accepts proves nothing.
func (db *DB) proves(ctx context.Context) bool { return sqldb.Guarded(ctx) || !db.moved.Load() }

// closeFor closes the store. It waits for all writes that began before and did not see that the
// store is closed.
func (s *Store) closeFor(ctx context.Context, m Moved) error {
	value, err := json.Marshal(m)
	if err != nil {
		return err
	}
	ctx = evenIfMoved(ctx)
	return s.sql.Rewrite(ctx, "closing", func(t *sqldb.Tx) error {
		if before := moveLocks[s.db.sql.Dialect.Name].closeAlone; before != "" {
			if _, err := t.Exec(before); err != nil {
				return err
			}
		}
		return writeMeta(t, movedName, string(value))
	})
}

// OpenAgain opens a store again after a move. It returns the store to which this one was moved, or
// nil if it was open.
func (s *Store) OpenAgain(ctx context.Context) (m *Moved, err error) {
	err = s.sql.Rewrite(evenIfMoved(ctx), "opening again", func(t *sqldb.Tx) (err error) {
		if m, err = readMoved(t); err != nil || m == nil {
			return err
		}
		_, err = t.Exec(`DELETE FROM {meta} WHERE name = ?`, movedName)
		return err
	})
	return m, err
}

// notFilled returns an error if a move into this store is not complete.
func notFilled(t *sqldb.Tx) error {
	state, err := readFilling(t)
	if err == nil && state.ID != "" && !state.Filled {
		err = fmt.Errorf("%w: a move into this store is not complete: run `caddy wx-auth move` again", ErrUnavailable)
	}
	return err
}
