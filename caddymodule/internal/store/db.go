// Package store keeps users, sessions, signing keys and the results of login steps in an SQL
// database. It implements small interfaces of the packages session, token, login and user. It knows
// nothing about HTTP, WeChat or Caddy, and what kinds of databases there are only from package
// sqldb.
//
// A [DB] is one database. It lives as long as any configuration uses it, and holds no secret except
// those of its connection. A [Store] is a DB used with the keys of one configuration. Both do
// nothing before their first use: opening them creates files, takes locks and migrates.
package store

import (
	"cmp"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/clock"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/remedy"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// Errors of a database, see package sqldb. Every error of Open that is not ErrUnavailable is
// permanent: only the operator can fix its cause.
var (
	ErrUnavailable = sqldb.ErrUnavailable
	ErrReadOnly    = sqldb.ErrReadOnly
	ErrLost        = sqldb.ErrLost
	ErrDamaged     = sqldb.ErrDamaged
	ErrSchema      = sqldb.ErrSchema
	ErrNone        = sqldb.ErrNone
)

// ErrKey reports that the database, or something in it, was sealed with an encryption key that is
// not configured.
var ErrKey = errors.New("wrong encryption key")

// Options set how to use the database.
type Options struct {
	// Prefix starts the name of every table. The default is "wx_auth_".
	Prefix string
	// Now is the clock. The default is time.Now.
	Now func() time.Time
	// Clock compares the clock Now with the database's. If it is nil, the two are assumed to agree.
	Clock *clock.Clock
}

// DB is one database. Its methods may be called from many goroutines at once.
type DB struct {
	sql  *sqldb.DB
	opts Options

	ready   atomic.Bool // the schema has been verified
	moved   atomic.Bool // the last write was refused because the store was moved
	created atomic.Bool // this process has created the tables
	agreed  atomic.Pointer[agreement]
}

// agreement records how the database was last opened: the keys of a configuration, and the keys in
// use that resulted from them.
type agreement struct{ configured, keys *Keys }

const defaultPrefix = "wx_auth_"

// tableNames lists all tables in the order of their creation.
var tableNames = []string{
	"meta", "users", "user_phones", "bindings", "sessions", "revocations",
	"signing_keys", "kept_steps", "claimed_steps", "access_tokens", "user_locks", "barred_users",
	"former_openids",
}

// New parses the address of a database, sqlite:<path>, postgres://… or mysql://…, without I/O. Its
// errors never contain the address of a database server, since that may contain a password.
func New(address string, opts Options) (*DB, error) {
	opts.Prefix = cmp.Or(opts.Prefix, defaultPrefix)
	if opts.Now == nil {
		opts.Now = time.Now
	}
	db, err := sqldb.New(address, sqldb.Options{
		Tables: tableNames, Prefix: opts.Prefix, Guard: guardOf(address),
		Answer: isAnswer, Explain: explainKey, Operations: operations,
	})
	if err != nil {
		return nil, err
	}
	return &DB{sql: db, opts: opts}, nil
}

// Close waits for running queries and closes the database for good.
func (db *DB) Close() error {
	defer db.ready.Store(false)
	return db.sql.Close()
}

// String names the database for logs and errors, without credentials.
func (db *DB) String() string { return db.sql.String() }

// Label names the database in metrics, see [sqldb.DB.Label].
func (db *DB) Label() string { return db.sql.Label() }

// KeyFile returns the path of an SQLite store's generated encryption key.
func (db *DB) KeyFile() string { return db.sql.KeyFile() }

// InPlace returns an error if an open SQLite file was deleted or replaced, see [sqldb.DB.InPlace].
func (db *DB) InPlace() error { return db.sql.InPlace() }

// Observe sets a function that is called after each operation, see [sqldb.DB.Observe].
func (db *DB) Observe(seen func(sqldb.Operation)) { db.sql.Observe(seen) }

// answers are the errors that report what the database contains. Any other error reports that the
// query failed.
var answers = []error{
	session.ErrNotFound, session.ErrEnded, user.ErrUnknown, user.ErrDisabled, user.ErrNewOpenID, user.ErrPhoneTaken,
	login.ErrChanged, login.ErrChanging, login.ErrChangedSince, login.ErrOvertaken, login.ErrBound, login.ErrCodeSpent,
}

func isAnswer(err error) bool {
	return slices.ContainsFunc(answers, func(a error) bool { return errors.Is(err, a) }) || errors.As(err, new(*login.Opened))
}

// explainKey returns an unreadable for an ErrKey, and nil for any other error.
func explainKey(err error) error {
	if errors.Is(err, ErrKey) {
		return unreadable{err}
	}
	return nil
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
