// Package store keeps users, sessions, signing keys and the steps of logins in
// SQL. It implements the small interfaces that the packages session, token,
// login and user declare, and knows nothing of HTTP, of WeChat or of Caddy.
//
// A [DB] is one database; it lives as long as any configuration uses it, and
// holds no secret but those of its connection. A [Store] is a DB seen with the
// keys of one configuration. Neither does anything before its first use:
// opening creates files, locks and migrates.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/clock"
)

var (
	// ErrUnavailable says that the database cannot be asked at the moment: it
	// is locked, away, full, or slower than the deadline. Trying again later
	// may help. Every other error of Open is permanent: only the operator can
	// mend what it names.
	ErrUnavailable = errors.New("store unavailable")

	// ErrReadOnly says that the database answers and takes no write: a replica, a server
	// or a file that is read-only. It comes with ErrUnavailable, as a replica may be
	// promoted.
	ErrReadOnly = errors.New("it cannot be written")

	// ErrLost says that an SQLite file is missing or empty, though what lies beside it
	// says that it had users.
	ErrLost = errors.New("the database is lost")

	// ErrKey says that the database, or something in it, was sealed with an
	// encryption key that is not configured.
	ErrKey = errors.New("wrong encryption key")

	// ErrSchema says that the tables are not those this build works with.
	ErrSchema = errors.New("unusable schema")
)

// Options say how to use the database.
type Options struct {
	// Prefix starts the name of every table; default "wx_auth_".
	Prefix string
	// Now is the clock, time.Now by default.
	Now func() time.Time
	// Clock compares that clock with the database's; nil: they are taken to agree.
	Clock *clock.Clock

	lookup lookup
}

// DB is one database. Its methods may be called from many goroutines at once.
type DB struct {
	url     string // as errors and logs may show it
	path    string // of the SQLite file
	server  any    // the address as the dialect of a database server reads it
	secrets []string
	dialect *dialect
	foreign bool // the tables are a team's own, see Foreign
	opts    Options
	tables  *strings.Replacer
	queries sync.Map // the SQL as written here -> as the database takes it

	opening chan struct{} // holds one element while somebody opens or closes
	pools   atomic.Pointer[pools]
	ready   atomic.Bool // the schema is as it must be
	narrow  atomic.Bool // the database's encoding lacks some of Unicode
	created atomic.Bool // this process has made the tables
	agreed  atomic.Pointer[agreement]
	file    atomic.Pointer[os.FileInfo] // SQLite's, as it was opened
	closed  bool                        // guarded by opening
}

// agreement is how the database was opened last: the keys that a configuration has, and
// those that came of them.
type agreement struct{ configured, keys *Keys }

// pools are the connections to an open database.
type pools struct {
	write, read *sql.DB // the same one where a database takes several writers
	queue       *queue  // nil where every write is a transaction of its own
}

const (
	defaultPrefix = "wx_auth_"

	// queryTimeout bounds whatever is asked.
	queryTimeout = 5 * time.Second

	// maxConnections bounds the pool of a database server, for each process;
	// who finds all of them busy waits.
	maxConnections = 20
	// maxConnectionAge lets connections move on after a failover behind one
	// name, and maxConnectionIdle gives back what a burst has opened.
	maxConnectionAge  = 30 * time.Minute
	maxConnectionIdle = 5 * time.Minute
	// dialTimeout bounds one try to connect.
	dialTimeout = 4 * time.Second
)

// bound sets the limits of a pool of connections to a server.
func bound(pool *sql.DB) *sql.DB {
	pool.SetMaxOpenConns(maxConnections)
	pool.SetMaxIdleConns(maxConnections)
	pool.SetConnMaxLifetime(maxConnectionAge)
	pool.SetConnMaxIdleTime(maxConnectionIdle)
	return pool
}

var prefixForm = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,30}$`)

// New parses the address of a database, sqlite:<path>, postgres://… or
// mysql://…, and does no more. An error never holds the address of a database
// server, which may hold a password.
func New(address string, opts Options) (*DB, error) {
	if opts.Prefix == "" {
		opts.Prefix = defaultPrefix
	}
	if !prefixForm.MatchString(opts.Prefix) {
		return nil, prefixError(opts.Prefix)
	}
	if opts.lookup == nil {
		opts.lookup = resolve
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	const kinds = "sqlite:<path>, postgres://user:password@host/database or mysql://user:password@host/database"
	scheme, _, ok := strings.Cut(address, ":")
	if !ok {
		return nil, errors.New("the store's address must be " + kinds)
	}
	d := dialects[scheme]
	if d == nil {
		return nil, fmt.Errorf("unknown kind of store %q: use %s", scheme, kinds)
	}
	db := &DB{dialect: d, opts: opts, opening: make(chan struct{}, 1)}
	if err := d.parse(db, address); err != nil {
		return nil, err
	}
	db.tables = db.dialect.replacer(opts.Prefix)
	return db, nil
}

// String names the database for logs and errors, without credentials.
func (db *DB) String() string { return db.url }

// opened runs then with the open database, one caller at a time. create makes
// the file that SQLite needs.
func (db *DB) opened(ctx context.Context, create bool, then func(context.Context, *pools) error) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	select {
	case db.opening <- struct{}{}:
		defer func() { <-db.opening }()
	case <-ctx.Done():
		return db.wrap(ctx, "opening", ctx.Err())
	}
	if db.closed {
		return fmt.Errorf("opening the store: %s: %w: closed", db.url, ErrUnavailable)
	}
	p := db.pools.Load()
	if p == nil {
		var err error
		if p, err = db.dialect.open(ctx, db, create); err != nil {
			return db.wrap(ctx, "opening", err)
		}
		db.pools.Store(p)
	}
	return db.wrap(ctx, "opening", then(ctx, p))
}

// Close closes the database for good, after the queries that are running.
func (db *DB) Close() error {
	db.opening <- struct{}{}
	defer func() { <-db.opening }()
	db.closed = true
	db.ready.Store(false)
	p := db.pools.Swap(nil)
	if p == nil {
		return nil
	}
	if p.queue != nil {
		p.queue.close()
	}
	var err error
	if p.read != p.write {
		// SQLite folds its log into the file when the last connection closes:
		// that must be the one that may write.
		err = p.read.Close()
	}
	err = errors.Join(err, p.write.Close())
	if err != nil {
		return fmt.Errorf("closing the store: %s: %w", db.url, err)
	}
	return nil
}

// bounded gives ctx a deadline if it has none: to open may take longer than a
// query.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, queryTimeout)
}
