package sqldb

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/span"
)

// Operation is one operation of a database that has ended, for metrics and logs.
type Operation struct {
	Name  string // one of Options.Operations, or OtherOperation
	Write bool
	Took  time.Duration
	Err   error // nil also if the caller got an error that is an answer; see Options.Answer
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

// OtherOperation stands for all operations that are not listed: those of the commands.
const OtherOperation = "other"

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
	name, known := db.opts.Operations[doing]
	if !known {
		name = OtherOperation
	}
	if err != nil && (db.opts.Answer(err) || db.Dialect.Duplicate(err)) {
		err = nil
	}
	db.observer(Operation{name, write, time.Since(start), err})
}

// Label names the database in metrics: "<kind>:<host>/<database>/<prefix>", or the name of
// the file. It contains no user, password or parameter.
func (db *DB) Label() string {
	if db.label == "" {
		return filepath.Base(db.path)
	}
	return db.label + "/" + db.opts.Prefix
}
