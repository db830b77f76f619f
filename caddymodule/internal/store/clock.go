package store

import (
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"time"
)

// Several replicas read the same rows. These clocks decide about them:
//
//	leases of steps, age of feed rows,     the database's, in SQL: {now}
//	what housekeeping deletes, which
//	replicas are up
//	sessions (created, refreshed,          the process's, but the database's once the two differ
//	advanced, expires, ended),             by more than clock.Bound: millis and fromMillis
//	revocations' until_at, signing keys,   translate, so that a wrong clock writes times that are
//	step results, access tokens and        right for the others and reads theirs as its own
//	their leases, bindings' times
//	tokens (iat, exp, nbf)                 the process's: it accepts what it mints. Other replicas
//	                                       refuse a token from their future
//	limits, caches, circuit breakers       the process's; none of these is shared
//
// The shift applies only beyond the bound. Replicas whose clocks differ less keep their precise
// times, and rules that compare such times allow for the difference.

// millis returns a time of this process's clock as SQL holds it. The zero time is 0.
func (db *DB) millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Add(db.opts.Clock.Shift()).UnixMilli()
}

// fromMillis is the reverse of millis.
func (db *DB) fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).Add(-db.opts.Clock.Shift()).UTC()
}

// comparesClock is called before the database is asked for its clock. It returns a function that
// must be called with the answer, in milliseconds since 1970, and that compares the clocks.
func (db *DB) comparesClock() (answered func(databaseNow int64)) {
	if db.opts.Clock == nil {
		return func(int64) {}
	}
	asked, start := db.opts.Now(), time.Now()
	return func(databaseNow int64) {
		db.opts.Clock.Compare(asked, time.Since(start), time.UnixMilli(databaseNow))
	}
}

// readClock compares this process's clock with the database's.
func (db *DB) readClock(t *sqldb.Tx) error {
	if db.opts.Clock == nil {
		return nil
	}
	answered := db.comparesClock()
	var now int64
	err := t.Row(`SELECT {now}`).Scan(&now)
	if err == nil {
		answered(now)
	}
	return err
}
