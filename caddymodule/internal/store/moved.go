package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/remedy"
)

// A store that was moved to another database is closed: it takes no write any more, or a logout
// that comes after its row was copied would be undone by the copy. The row movedName in meta closes
// it. Every writing transaction looks for the row when it begins, and holds a lock until it ends,
// which the move waits for: once the row is committed, no transaction that did not see it is under
// way. What only reads goes on, and so do tokens.

// ErrMoved reports that the store is closed, because it was moved to another database or is being
// moved. It comes with ErrUnavailable.
var ErrMoved = errors.New("the store was moved")

// movedName is the row of meta that closes a store. It sorts behind keyCheckName: MySQL takes the
// lock on that row first, and then looks for this one.
const movedName = "moved_to"

// fillingName is the row of meta of a store that is being filled by a move.
const fillingName = "filling"

// Moved names the store to which a store was moved.
type Moved struct {
	// To names the other database, without credentials.
	To string `json:"to"`
	// ID is different for each time that the store was closed.
	ID string `json:"id"`
	// Done is set once everything is there.
	Done bool `json:"done"`
}

// movedError is ErrMoved with the place.
type movedError struct{ Moved }

func (e movedError) Error() string {
	if e.Done {
		return "it was moved to " + e.To + ", and takes no writes any more"
	}
	return "it is being moved to " + e.To + ", and takes no writes any more"
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

// openGuard is a condition of single statements that write. A server refuses it with an error if
// the store is closed: the subquery then has two rows.
const openGuard = ` AND (SELECT 1 FROM {meta} WHERE name IN ('` + keyCheckName + `', '` + movedName + `') {share}) = 1`

type whileMoved struct{}

// evenIfMoved returns a context for writes that a closed store takes. They concern what has begun
// before, what is not copied, or the move itself.
func evenIfMoved(ctx context.Context) context.Context {
	return context.WithValue(ctx, whileMoved{}, true)
}

func guarded(ctx context.Context) bool { return ctx.Value(whileMoved{}) == nil }

// checkOpen returns an error if the store is closed. With SQLite it is called within each writing
// transaction.
func checkOpen(t *tx) error {
	m, err := readMoved(t)
	if err == nil && m != nil {
		err = movedError{*m}
	}
	return err
}

// readMoved returns where the store was moved to, or nil if it is open.
func readMoved(t *tx) (*Moved, error) {
	var value []byte
	err := t.row(`SELECT value FROM {meta} WHERE name = ?`, movedName).Scan(&value)
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

// MovedTo returns where the store was moved to, or nil if it is open.
func (s *Store) MovedTo(ctx context.Context) (m *Moved, err error) {
	err = s.read(ctx, "reading whether it was moved, of", func(t *tx) (err error) {
		m, err = readMoved(t)
		return err
	})
	return m, err
}

// explainMoved replaces the error of a guard by the reason for it. It notes whether the store is
// closed.
func (s *Store) explainMoved(ctx context.Context, err error) error {
	if err != nil && s.db.dialect.guardFailed != nil && s.db.dialect.guardFailed(err) {
		m, readErr := s.MovedTo(ctx)
		if readErr != nil || m == nil {
			return errors.Join(err, readErr)
		}
		err = movedError{*m}
	}
	if moved := errors.Is(err, ErrMoved); moved || err == nil && guarded(ctx) {
		s.db.moved.Store(moved)
	}
	return err
}

// proves reports whether a write that succeeds shows that the store can be written. One that even
// a closed store takes does not.
func (db *DB) proves(ctx context.Context) bool { return guarded(ctx) || !db.moved.Load() }

// closeFor closes the store, and waits until no write is under way that did not notice.
func (s *Store) closeFor(ctx context.Context, m Moved) error {
	value, err := json.Marshal(m)
	if err != nil {
		return err
	}
	ctx = evenIfMoved(ctx)
	err = s.rewrite(ctx, "closing", func(t *tx) error {
		if before := s.db.dialect.closeAlone; before != "" {
			if _, err := t.exec(before); err != nil {
				return err
			}
		}
		return writeMeta(t, movedName, string(value))
	})
	if err == nil && s.db.dialect.waitForWrites != "" {
		err = s.rewrite(ctx, "waiting for the last writes of", func(t *tx) error {
			_, err := t.exec(s.db.dialect.waitForWrites)
			return err
		})
	}
	return err
}

// OpenAgain opens a store again that was moved. It returns where it was moved to, or nil if it was
// open.
func (s *Store) OpenAgain(ctx context.Context) (m *Moved, err error) {
	err = s.rewrite(evenIfMoved(ctx), "opening again", func(t *tx) (err error) {
		if m, err = readMoved(t); err != nil || m == nil {
			return err
		}
		_, err = t.exec(`DELETE FROM {meta} WHERE name = ?`, movedName)
		return err
	})
	return m, err
}

// notFilled returns an error if a move to this store has not come to its end.
func notFilled(t *tx) error {
	state, err := readFilling(t)
	if err == nil && state.ID != "" && !state.Filled {
		err = fmt.Errorf("%w: `caddy wx-auth move` has not come to its end here: run it again", ErrUnavailable)
	}
	return err
}
