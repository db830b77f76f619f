package store

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/span"
)

// Operation is one operation of a store that has ended, for metrics and logs.
type Operation struct {
	Name  string // one of Operations
	Write bool
	Took  time.Duration
	Err   error // nil also if the caller got an error that is an answer, such as session.ErrNotFound
}

// Outcome returns "ok", "unavailable" (a later try may succeed), "canceled" (nobody waited
// any longer) or "failed".
func (o Operation) Outcome() string {
	switch {
	case o.Err == nil:
		return "ok"
	case errors.Is(o.Err, ErrUnavailable):
		return "unavailable"
	case errors.Is(o.Err, context.Canceled):
		return "canceled"
	}
	return "failed"
}

// CountOperation is the operation that counts the sessions. It may take long if there are very
// many.
const CountOperation = "count_sessions"

// otherOperation stands for all operations that are not listed: those of the commands.
const otherOperation = "other"

// operations maps the words with which an operation's errors begin to its name.
var operations = map[string]string{
	"committing a login":          "commit_login",
	"keeping a step":              "login_step",
	"reading a kept step":         "login_step",
	"leasing a step":              "login_step",
	"renewing a lease":            "login_step",
	"releasing a step":            "login_step",
	"reading a binding":           "read_user",
	"reading a user":              "read_user",
	"reading a user's bindings":   "read_user",
	"finding a user":              "read_user",
	"listing users":               "read_user",
	"exporting a user":            "read_user",
	"reading who is disabled":     "read_user",
	"looking at who has left":     "read_user",
	"creating a user":             "change_user",
	"disabling a user":            "change_user",
	"erasing a user":              "change_user",
	"reading a session":           "read_session",
	"reading a user's sessions":   "read_session",
	"counting the sessions":       CountOperation,
	"advancing a session":         "refresh_session",
	"extending a session":         "refresh_session",
	"ending a session":            "end_sessions",
	"ending an openid's sessions": "end_sessions",
	"ending sessions":             "end_sessions",
	"reading the revocations":     "revocation_feed",
	"reading the signing keys":    "signing_keys",
	"adding a signing key":        "signing_keys",
	"removing signing keys":       "signing_keys",
	"reading an access token":     "access_token",
	"storing an access token":     "access_token",
	"leasing an access token":     "access_token",
	"releasing an access token":   "access_token",
	"purging":                     "housekeeping",
	"announcing a replica in":     "housekeeping",
	"forgetting replicas of":      "housekeeping",
	"writing":                     "probe",
}

// Operations lists the names of operations.
func Operations() (names []string) {
	for _, name := range operations {
		names = append(names, name)
	}
	slices.Sort(names)
	return append(slices.Compact(names), otherOperation)
}

// Observe sets a function that is called after each operation. It must be called before the first
// operation.
func (db *DB) Observe(seen func(Operation)) { db.observer = seen }

// begin starts an operation: it sets a time limit, traces and measures it until end is called.
// write has the meaning of [Operation].Write.
func (db *DB) begin(ctx context.Context, doing string) (_ context.Context, end func(write bool, err error)) {
	start := time.Now()
	ctx, traced := span.Start(ctx, doing)
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	return ctx, func(write bool, err error) {
		cancel()
		traced.End(err != nil)
		db.ended(doing, write, start, err)
	}
}

// ended reports an operation that began at start.
func (db *DB) ended(doing string, write bool, start time.Time, err error) {
	if db.observer == nil {
		return
	}
	name, known := operations[doing]
	if !known {
		name = otherOperation
	}
	if err != nil && db.answered(err) {
		err = nil
	}
	db.observer(Operation{name, write, time.Since(start), err})
}

// answered reports whether an error describes what the store contains, so that the operation itself
// has not failed.
func (db *DB) answered(err error) bool {
	is := func(a error) bool { return errors.Is(err, a) }
	return slices.ContainsFunc(answers, is) || db.dialect.duplicate(err) || errors.As(err, new(*login.Opened)) ||
		slices.ContainsFunc([]error{login.ErrChanged, login.ErrOvertaken, login.ErrCodeSpent}, is)
}

// Label names the database in metrics: "<kind>:<host>/<database>/<prefix>", or the name of
// the file. It contains no user, password or parameter.
func (db *DB) Label() string {
	if db.label == "" {
		return filepath.Base(db.path)
	}
	return db.label + "/" + db.opts.Prefix
}
