package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/remedy"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// permanent marks an error that a retry will not fix.
type permanent struct{ error }

func (e permanent) Unwrap() error { return e.error }

// answers are the errors that report what the database contains. Any other error reports that the
// query failed.
var answers = []error{session.ErrNotFound, user.ErrUnknown, user.ErrDisabled, user.ErrNewOpenID, user.ErrPhoneTaken, session.ErrEnded}

// wrap describes an error, and adds a remedy if the store is unavailable.
func (db *DB) wrap(ctx context.Context, doing string, err error) error {
	err = db.describe(ctx, doing, err)
	if err != nil && errors.Is(err, ErrUnavailable) && !errors.As(err, new(interface{ Remedy() string })) {
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
	err = db.redacted(err)
	if db.dialect.readOnly(err) && !errors.Is(err, ErrReadOnly) {
		err = fmt.Errorf("%s: %w: %w: %w", db.url, ErrUnavailable, ErrReadOnly, err)
	}
	switch {
	case slices.ContainsFunc(answers, func(a error) bool { return errors.Is(err, a) }):
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
	switch {
	case errors.As(err, &p):
		return fmt.Errorf("%s the store: %s: %w", doing, db.url, p.error)
	case errors.Is(err, ErrKey):
		return fmt.Errorf("%s the store: %s: %w", doing, db.url, unreadable{err})
	case db.dialect.temporary(err), db.pools.Load() == nil:
		return fmt.Errorf("%s the store: %s: %w: %w", doing, db.url, ErrUnavailable, err)
	}
	return fmt.Errorf("%s the store: %s: %w", doing, db.url, err)
}

// unreadable is the ErrKey of a request that met a value sealed with an unknown key. Only the
// operator can fix that.
type unreadable struct{ error }

func (e unreadable) Unwrap() error        { return e.error }
func (e unreadable) Is(target error) bool { return target == user.ErrMisconfigured }

// Remedy returns what the operator has to do.
func (unreadable) Remedy() string {
	return "`caddy wx-auth rekey`, or another replica, has sealed with an encryption key that this process does not have: " +
		"give it that key, encryption_key <new> <old>, and reload"
}

// Heading returns the heading for the log.
func (unreadable) Heading() remedy.Heading { return remedy.KeyMissing }

// redacted removes the secrets of a server's address from the text of an error.
func (db *DB) redacted(err error) error {
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
