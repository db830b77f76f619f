package store

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// permanent marks an error that trying again will not mend.
type permanent struct{ error }

func (e permanent) Unwrap() error { return e.error }

// answers are errors that say what the database holds, not that asking it went
// wrong.
var answers = []error{session.ErrNotFound, user.ErrUnknown, user.ErrNewOpenID}

// wrap says what was being done, to which database, and whether the error may
// go away by itself. Answers pass as they are.
func (db *DB) wrap(ctx context.Context, doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case slices.ContainsFunc(answers, func(a error) bool { return errors.Is(err, a) }):
		return err
	case errors.Is(err, ErrUnavailable), errors.Is(err, context.Canceled):
		return fmt.Errorf("%s the store: %w", doing, err)
	case errors.Is(ctx.Err(), context.Canceled):
		// Drivers answer an interruption with errors of their own.
		return fmt.Errorf("%s the store: %w", doing, context.Canceled)
	case errors.Is(ctx.Err(), context.DeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s the store: %s: %w: %w", doing, db.url, ErrUnavailable, context.DeadlineExceeded)
	}
	var p permanent
	switch {
	case errors.As(err, &p):
		return fmt.Errorf("%s the store: %s: %w", doing, db.url, p.error)
	case db.dialect.temporary(err), db.pools.Load() == nil:
		return fmt.Errorf("%s the store: %s: %w: %w", doing, db.url, ErrUnavailable, err)
	}
	return fmt.Errorf("%s the store: %s: %w", doing, db.url, err)
}
