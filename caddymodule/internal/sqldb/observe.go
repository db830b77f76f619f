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
	Write bool   // its success proves that the database can be written, see Client.Proves
	Took  time.Duration
	Again int   // how often it was run again, see Client
	Err   error // nil also if the caller got an error that is an answer; see Options.Answer
}

// Outcome returns "ok", "unavailable" (the database cannot be used, until a later try or a
// restore), "canceled" (nobody waited any longer) or "failed".
func (o Operation) Outcome() string {
	switch {
	case o.Err == nil:
		return "ok"
	case errors.Is(o.Err, ErrUnavailable), errors.Is(o.Err, ErrDamaged):
		return "unavailable"
	case errors.Is(o.Err, context.Canceled):
		return "canceled"
	}
	return "failed"
}

// OtherOperation is the name of every operation that Options.Operations does not list.
const OtherOperation = "other"

// Observe sets a function that is called after each operation. It must be called before the first
// operation.
func (db *DB) Observe(seen func(Operation)) { db.observer = seen }

// underway is an operation that has begun.
type underway struct {
	db    *DB
	doing string
	start time.Time
	runs  int  // how often its transaction was run
	early bool // its success does not wait for the file, so it does not prove that there is one
	stop  func(failed bool)
}

// begin starts an operation: it sets a time limit, traces and measures it until it ends.
func (db *DB) begin(ctx context.Context, doing string) (context.Context, *underway) {
	start := time.Now()
	ctx, traced := span.Start(ctx, doing)
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	return ctx, &underway{db: db, doing: doing, start: start, stop: func(failed bool) {
		cancel()
		traced.End(failed)
	}}
}

// counted returns run, and counts how often it is run.
func (u *underway) counted(run func() error) func() error {
	return func() error {
		u.runs++
		return run()
	}
}

// end reports the operation. write has the meaning of [Operation].Write.
func (u *underway) end(write bool, err error) {
	u.stop(err != nil)
	if u.db.observer == nil {
		return
	}
	name, known := u.db.opts.Operations[u.doing]
	if !known {
		name = OtherOperation
	}
	if err != nil && (u.db.opts.Answer(err) || u.db.Dialect.Duplicate(err)) {
		err = nil
	}
	if u.early && err == nil {
		write = false
	}
	u.db.observer(Operation{name, write, time.Since(u.start), max(0, u.runs-1), err})
}

// Label names the database in metrics: "<kind>:<host>/<database>/<prefix>", or the name of
// the file. It contains no user, password or parameter.
func (db *DB) Label() string {
	if db.label == "" {
		return filepath.Base(db.path)
	}
	return db.label + "/" + db.opts.Prefix
}
