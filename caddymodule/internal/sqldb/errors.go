package sqldb

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// permanent marks an error that a retry will not fix.
type permanent struct{ error }

func (e permanent) Unwrap() error { return e.error }

// Permanent marks an error that a retry will not fix: only the operator can fix its cause.
func Permanent(err error) error { return permanent{err} }

// IsPermanent reports whether an error is marked, and was not returned by an operation yet.
func IsPermanent(err error) bool { return errors.As(err, new(permanent)) }

// Wrap describes an error, and adds a remedy if the store is unavailable.
func (db *DB) Wrap(ctx context.Context, doing string, err error) error {
	err = db.describe(ctx, doing, err)
	if err == nil || errors.As(err, new(interface{ Remedy() string })) {
		return err
	}
	if errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrLost) {
		// The error of a file that is gone does not say so: SQLite names its log, or the disk.
		if gone := db.gone(); gone != nil {
			err = fmt.Errorf("%w: %w", err, gone)
		}
	}
	if errors.Is(err, ErrUnavailable) || errors.Is(err, ErrDamaged) {
		return advised{err, db.remedyOf(err)}
	}
	return err
}

// describe adds to an error what was being done and to which database, and classifies it as
// temporary or not. It returns answers unchanged.
func (db *DB) describe(ctx context.Context, doing string, err error) error {
	if err == nil {
		return nil
	}
	err = db.Redacted(err)
	if db.Dialect.readOnly(err) && !errors.Is(err, ErrReadOnly) {
		err = fmt.Errorf("%s: %w: %w: %w", db.url, ErrUnavailable, ErrReadOnly, err)
	}
	switch {
	case db.opts.Answer(err):
		return err
	case errors.Is(err, ErrUnavailable), errors.Is(err, context.Canceled):
		return fmt.Errorf("%s the store: %w", doing, err)
	case errors.Is(ctx.Err(), context.Canceled):
		// Drivers return their own errors after an interruption.
		return fmt.Errorf("%s the store: %w", doing, context.Canceled)
	case errors.Is(ctx.Err(), context.DeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s the store: %s: %w: %w", doing, db.url, ErrUnavailable, context.DeadlineExceeded)
	}
	var p permanent
	if errors.As(err, &p) {
		return fmt.Errorf("%s the store: %s: %w", doing, db.url, p.error)
	}
	if sqliteDamaged(err) {
		return fmt.Errorf("%s the store: %s: %w: %w", doing, db.url, ErrDamaged, err)
	}
	if db.opts.Explain != nil {
		if explained := db.opts.Explain(err); explained != nil {
			return fmt.Errorf("%s the store: %s: %w", doing, db.url, explained)
		}
	}
	if db.Dialect.Temporary(err) || db.pools.Load() == nil {
		return fmt.Errorf("%s the store: %s: %w: %w", doing, db.url, ErrUnavailable, err)
	}
	return fmt.Errorf("%s the store: %s: %w", doing, db.url, err)
}

// Redacted removes the secrets of a server's address from the text of an error.
func (db *DB) Redacted(err error) error {
	text := err.Error()
	clean := text
	for _, secret := range db.secrets {
		if secret != "" {
			clean = strings.ReplaceAll(clean, secret, "*****")
		}
	}
	if clean == text {
		return err
	}
	var p permanent
	if errors.As(err, &p) {
		return permanent{redacted{clean, p.error}}
	}
	return redacted{clean, err}
}

// redacted is an error whose text has no secrets.
type redacted struct {
	text string
	err  error
}

func (e redacted) Error() string { return e.text }
func (e redacted) Unwrap() error { return e.err }

// unknown marks the error of a commit that was sent, but not answered.
type unknown struct{ error }

func (e unknown) Unwrap() error { return e.error }
func (e unknown) Error() string {
	return "the connection broke during a commit, so the change may or may not have been made: " + e.error.Error()
}
