// Package sqldb runs transactions on SQLite, PostgreSQL and MySQL. The SQL is written once, see
// [Dialect]. A transaction takes as few turnarounds as possible. If another one was in its way, it
// is run again. Each error is either temporary, or only the operator can fix its cause. The package
// does not know what the tables mean.
package sqldb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

var (
	// ErrUnavailable reports that the database cannot be used at the moment: it is locked, away,
	// full, or slower than the deadline. A later retry may succeed.
	ErrUnavailable = errors.New("store unavailable")

	// ErrReadOnly reports that the database answers but accepts no write: it is a replica, or a
	// read-only server or file. It comes with ErrUnavailable, because a replica may be promoted.
	ErrReadOnly = errors.New("it cannot be written")

	// ErrLost reports that an SQLite file is missing or empty, although files beside it show that
	// it had users, or that it was deleted or replaced while it is open.
	ErrLost = errors.New("the database is lost")

	// ErrDamaged reports that the content of an SQLite file is damaged. No later retry succeeds.
	ErrDamaged = errors.New("the database is damaged")

	// ErrSchema reports that the tables are missing, or that this build cannot work with them.
	ErrSchema = errors.New("unusable schema")

	// ErrNone reports, together with ErrSchema, that nothing has created the tables yet.
	ErrNone = errors.New("no tables yet")
)

// Options set how to use a database.
type Options struct {
	// Tables lists the tables that SQL names in braces, without the prefix. It may be empty.
	Tables []string
	// Prefix starts the name of every table, see [CheckPrefix]. It is required if there are Tables.
	Prefix string
	// Guard keeps writes out. By default it lets all of them in.
	Guard Guard
	// Answer reports whether an error says what the database contains, and not that a query failed.
	// Such errors are returned as they are. By default none does.
	Answer func(error) bool
	// Explain returns an error that says more than the given one, or nil. Such an error is not
	// temporary. Explain may be nil.
	Explain func(error) error
	// Operations maps the words with which an operation's errors begin to its name, for
	// [DB.Observe].
	Operations map[string]string

	// Wrap is for SQL that is not ours: the connections accept one statement at a time. It returns
	// the connector to use, the given one or another. It may be nil.
	Wrap func(driver.Connector) driver.Connector

	lookup lookup
}

// Guard is checked by each transaction that writes, before anything else. See [Unguarded] for those
// that are let in always.
type Guard struct {
	// Statements are sent to a server before the transaction's own. They fail if the guard is shut.
	Statements []string
	// Check asks SQLite, once for each transaction. It returns an error if the guard is shut.
	Check func(*Tx) error
}

// DB is one database. Its methods may be called from many goroutines at once.
type DB struct {
	Dialect *Dialect

	url     string // for errors and logs
	label   string // of a server, for metrics; without the prefix
	path    string // path of the SQLite file
	server  any    // the parsed address of a database server, in its dialect's type
	secrets []string
	opts    Options
	// observer is called after each operation; see Observe. It may be nil.
	observer func(Operation)
	words    *strings.Replacer
	queries  sync.Map // the SQL as written → the SQL of the database

	opening chan struct{} // holds one element while a caller opens or closes
	pools   atomic.Pointer[Pools]
	narrow  atomic.Bool                 // the database's encoding lacks some of Unicode
	file    atomic.Pointer[os.FileInfo] // SQLite's file, as it was opened
	closed  bool                        // guarded by opening
}

// Pools are the connections to an open database.
type Pools struct {
	// Write and Read are the same pool if the database allows several writers.
	Write, Read *sql.DB

	queue  *queue // nil if the database is a server
	groups groups // of a server
}

const (
	// queryTimeout bounds every operation on the database.
	queryTimeout = 5 * time.Second

	// maxConnections bounds the pool of a database server, for each process. Callers wait while all
	// connections are busy.
	maxConnections = 20
	// maxConnectionAge lets connections move to another server after a failover behind the same
	// name. maxConnectionIdle closes the connections that a burst has opened.
	maxConnectionAge  = 30 * time.Minute
	maxConnectionIdle = 5 * time.Minute
	// dialTimeout bounds one attempt to connect.
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

// CheckPrefix returns an error for a prefix that table names cannot have.
func CheckPrefix(prefix string) error {
	if !prefixForm.MatchString(prefix) {
		return fmt.Errorf("table prefix %q: use up to 31 lower-case letters, digits and underscores", prefix)
	}
	return nil
}

// New parses the address of a database, sqlite:<path>, postgres://… or mysql://…, without I/O. Its
// errors never contain the address of a database server, since that may contain a password.
func New(address string, opts Options) (*DB, error) {
	if opts.Prefix != "" || len(opts.Tables) > 0 {
		if err := CheckPrefix(opts.Prefix); err != nil {
			return nil, err
		}
	}
	if opts.lookup == nil {
		opts.lookup = resolve
	}
	if opts.Answer == nil {
		opts.Answer = func(error) bool { return false }
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
	db := &DB{Dialect: d, opts: opts, opening: make(chan struct{}, 1)}
	if err := d.parse(db, address); err != nil {
		return nil, err
	}
	db.words = d.Words(opts.Prefix, opts.Tables)
	return db, nil
}

// String names the database for logs and errors, without credentials.
func (db *DB) String() string { return db.url }

// Prefix returns the prefix of the tables' names.
func (db *DB) Prefix() string { return db.opts.Prefix }

// Pools returns the connections, or nil if the database is not open.
func (db *DB) Pools() *Pools { return db.pools.Load() }

// Open opens the database if needed, and calls then with it, for one caller at a time. If create is
// set, it may create the file of an SQLite database.
func (db *DB) Open(ctx context.Context, create bool, then func(context.Context, *Pools) error) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	select {
	case db.opening <- struct{}{}:
		defer func() { <-db.opening }()
	case <-ctx.Done():
		return db.Wrap(ctx, "opening", ctx.Err())
	}
	if db.closed {
		return fmt.Errorf("opening the store: %w", db.ErrClosed())
	}
	p := db.pools.Load()
	if p == nil {
		var err error
		if p, err = db.Dialect.open(ctx, db, create); err != nil {
			return db.Wrap(ctx, "opening", err)
		}
		db.pools.Store(p)
	}
	return db.Wrap(ctx, "opening", then(ctx, p))
}

// ErrClosed returns the error of an operation on a database that is closed for good.
func (db *DB) ErrClosed() error { return fmt.Errorf("%s: %w: closed", db.url, ErrUnavailable) }

// Close waits for running queries and closes the database for good.
func (db *DB) Close() error {
	db.opening <- struct{}{}
	defer func() { <-db.opening }()
	db.closed = true
	p := db.pools.Swap(nil)
	if p == nil {
		return nil
	}
	if p.queue != nil {
		p.queue.close()
	}
	var err error
	if p.Read != p.Write {
		// SQLite moves its log into the file when the last connection closes. So the connection
		// that may write must be closed last.
		err = p.Read.Close()
	}
	err = errors.Join(err, p.Write.Close())
	if err != nil {
		return fmt.Errorf("closing the store: %s: %w", db.url, err)
	}
	return nil
}

// bounded gives ctx a deadline if it has none. The deadline of a caller may be later, because
// opening may take longer than a query.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, queryTimeout)
}
