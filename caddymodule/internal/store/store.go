// Package store keeps users, sessions, signing keys and the results of login steps in an SQL
// database. It implements small interfaces of the packages session, token, login and user. It knows
// nothing about HTTP, WeChat or Caddy.
//
// A [DB] is one database. It lives as long as any configuration uses it, and holds no secret except
// those of its connection. A [Store] is a DB used with the keys of one configuration. Both do
// nothing before their first use: opening them creates files, takes locks and migrates.
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
	// ErrUnavailable reports that the database cannot be used at the moment: it is locked, away,
	// full, or slower than the deadline. A later retry may succeed. Every other error of Open is
	// permanent: only the operator can fix its cause.
	ErrUnavailable = errors.New("store unavailable")

	// ErrReadOnly reports that the database answers but accepts no write: it is a replica, or a
	// read-only server or file. It comes with ErrUnavailable, because a replica may be promoted.
	ErrReadOnly = errors.New("it cannot be written")

	// ErrLost reports that an SQLite file is missing or empty, although files beside it show that
	// it had users.
	ErrLost = errors.New("the database is lost")

	// ErrKey reports that the database, or something in it, was sealed with an encryption key that
	// is not configured.
	ErrKey = errors.New("wrong encryption key")

	// ErrSchema reports that this build cannot work with the tables.
	ErrSchema = errors.New("unusable schema")
)

// Options set how to use the database.
type Options struct {
	// Prefix starts the name of every table. The default is "wx_auth_".
	Prefix string
	// Now is the clock. The default is time.Now.
	Now func() time.Time
	// Clock compares the clock Now with the database's. If it is nil, the two are assumed to agree.
	Clock *clock.Clock

	lookup lookup
}

// DB is one database. Its methods may be called from many goroutines at once.
type DB struct {
	url      string // for errors and logs
	label    string // of a server, for metrics; without the prefix
	path     string // path of the SQLite file
	server   any    // the parsed address of a database server, in its dialect's type
	secrets  []string
	dialect  *dialect
	external bool // the tables are external, see ExternalTables
	opts     Options
	// observer is called after each operation; see Observe. It may be nil.
	observer func(Operation)
	tables   *strings.Replacer
	queries  sync.Map // the SQL as written in this package → the SQL of the database

	opening chan struct{} // holds one element while a caller opens or closes
	pools   atomic.Pointer[pools]
	ready   atomic.Bool // the schema has been verified
	narrow  atomic.Bool // the database's encoding lacks some of Unicode
	moved   atomic.Bool // the last write was refused because the store was moved
	created atomic.Bool // this process has created the tables
	agreed  atomic.Pointer[agreement]
	file    atomic.Pointer[os.FileInfo] // SQLite's file, as it was opened
	closed  bool                        // guarded by opening
}

// agreement records how the database was last opened: the keys of a configuration, and the keys in
// use that resulted from them.
type agreement struct{ configured, keys *Keys }

// pools are the connections to an open database.
type pools struct {
	write, read *sql.DB // the same pool if the database allows several writers
	queue       *queue  // nil if the database is a server
	groups      groups  // of a server
}

const (
	defaultPrefix = "wx_auth_"

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

// New parses the address of a database, sqlite:<path>, postgres://… or mysql://…, without I/O. Its
// errors never contain the address of a database server, since that may contain a password.
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

// opened opens the database if needed, and calls then with it, for one caller at a time. If create
// is set, it may create the file of an SQLite database.
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

// Close waits for running queries and closes the database for good.
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
		// SQLite moves its log into the file when the last connection closes. So the connection
		// that may write must be closed last.
		err = p.read.Close()
	}
	err = errors.Join(err, p.write.Close())
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
