package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
)

// Store is a database used with the keys of one configuration. It implements the interfaces
// session.Store, token.KeyStore and login.Store.
//
// Every method opens the store first if it is not open yet. An error that is [ErrUnavailable] is
// temporary.
type Store struct {
	db         *DB
	sql        sqldb.Client // runs operations on db
	configured *Keys        // nil if the key is generated and kept beside the file
	by         tablesBy     // what creates the tables
	fills      bool         // a move fills the store, see moved.go

	keys   atomic.Pointer[Keys] // the keys in use; nil until the store is open
	failed atomic.Pointer[failure]

	hasUsers atomic.Bool // see Users
}

var (
	_ session.Store  = (*Store)(nil)
	_ token.KeyStore = (*Store)(nil)
)

// failure is the result of the last attempt of a request to open the store.
type failure struct {
	err error
	at  time.Time
}

// openPause is how long requests get the error of the last failed attempt to open. Otherwise a
// thousand requests would try one after the other.
const openPause = time.Second

// With returns the store for a configuration with these keys. If keys is nil, an SQLite store
// generates its key and keeps it beside the file. Other databases require keys.
func (db *DB) With(keys *Keys) *Store {
	return db.with(keys, bySelf)
}

// WithTables is like [DB.With], but the store only verifies the tables. The operator creates and
// migrates them.
func (db *DB) WithTables(keys *Keys) *Store {
	return db.with(keys, byOperator)
}

// ForCommand is like [DB.WithTables], for a command beside a configuration whose Caddy may migrate
// the tables.
func (db *DB) ForCommand(keys *Keys, migrate bool) *Store {
	if migrate {
		return db.with(keys, byCaddy)
	}
	return db.with(keys, byOperator)
}

func (db *DB) with(keys *Keys, by tablesBy) *Store {
	s := &Store{db: db, configured: keys, by: by}
	s.sql = sqldb.Client{DB: db.sql, Use: s.use, Wrote: s.explainMoved, Proves: db.proves}
	return s
}

// Open opens the store. It checks that the keys are those of the database, and writes nothing if
// they are not. It migrates the tables, and generates the key if none is configured. It does
// nothing if the store is open. Only one caller at a time opens the store; the others wait. An
// error that is not [ErrUnavailable] is permanent.
func (s *Store) Open(ctx context.Context) error {
	if s.keys.Load() != nil && s.db.ready.Load() {
		return nil
	}
	return s.Reopen(ctx)
}

// Remedy returns advice for the operator about an error of Open, see [sqldb.DB.Remedy].
func (s *Store) Remedy(err error) string {
	if errors.Is(err, ErrKey) {
		return "give the store the key that it was sealed with: `encryption_key`, or the key file from the same backup as the database"
	}
	if errors.Is(err, ErrSchema) {
		return "do what the error says; if this is another store than you meant, correct `store`"
	}
	return s.db.sql.Remedy(err)
}

// Reopen is like Open, but asks the database even if the store is open: another process may have
// changed the keys or the tables since.
func (s *Store) Reopen(ctx context.Context) error {
	err := s.db.sql.Open(ctx, s.by == bySelf, s.open)
	if s.by == byOperator && errors.Is(err, ErrNone) {
		err = fmt.Errorf("%w, and with migrate off it is not created", err)
	}
	return err
}

// Resume uses what an earlier configuration with the same keys has opened. It does not ask the
// database, so a reload succeeds while the database is down. It returns false if there was no such
// configuration.
func (s *Store) Resume() bool {
	a := s.db.agreed.Load()
	if a == nil || !s.db.ready.Load() || s.db.sql.Pools() == nil || !a.configured.Equal(s.configured) {
		return false
	}
	s.keys.CompareAndSwap(nil, a.keys)
	return true
}

func (s *Store) open(ctx context.Context, p *sqldb.Pools) error {
	asking := s.db.sql.Asking(ctx, p.Write)
	// The key file is checked before the tables. Tables are created before the key, so if the key
	// exists, its tables existed before it.
	hadKey := s.db.sql.HasKeyFile()
	version, err := s.db.version(asking)
	if err != nil {
		return err
	}
	if version == 0 && hadKey {
		blank, err := s.db.sql.Blank(asking)
		if err != nil {
			return err
		}
		if blank {
			return s.db.sql.Lost("is empty")
		}
		// The key belongs to a store with another prefix in the same file.
	}
	if err := s.db.acceptable(version, s.by); err != nil {
		return err
	}
	var keys *Keys
	if version > 0 {
		if keys, err = s.agree(asking, false); err != nil {
			return err
		}
	} else if s.configured == nil && s.db.sql.Dialect.Port != "" {
		return sqldb.Permanent(errors.New("encryption_key is missing: only an SQLite store generates its key, not " + s.db.sql.Dialect.Name))
	}
	if err := s.db.prepare(ctx, p, s.by); err != nil {
		return err
	}
	if keys == nil {
		err := s.db.sql.Dialect.Alone(ctx, s.db.sql, p, func(t *sqldb.Tx) (err error) {
			keys, err = s.agree(t, true)
			return err
		})
		if err != nil {
			return err
		}
	}
	if err := s.db.readClock(asking); err != nil {
		return err
	}
	if !s.fills {
		if err := notFilled(asking); err != nil {
			return err
		}
	}
	s.keys.Store(keys)
	s.db.agreed.Store(&agreement{s.configured, keys})
	if version == 0 {
		s.db.created.Store(true)
	}
	return nil
}

const keyCheckName, keyCheckText = "key_check", "caddy-wx-auth"

var keyCheckPlace = place{"meta", "value", keyCheckName}

// agree checks that the keys belong to the database. If the database has no key check value yet and
// create is set, agree stores one, and creates the key file if needed. Without create, it returns
// nil keys in that case. create requires a transaction.
func (s *Store) agree(t *sqldb.Tx, create bool) (*Keys, error) {
	var check []byte
	err := t.Row(`SELECT value FROM {meta} WHERE name = ?`, keyCheckName).Scan(&check)
	found := err == nil
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, err
	}
	if !found && !create {
		return nil, nil
	}
	keys := s.configured
	if keys == nil {
		if s.db.sql.Dialect.Port != "" {
			return nil, sqldb.Permanent(errors.New("encryption_key is missing"))
		}
		keys, err = readKeyFile(s.db.KeyFile())
		if errors.Is(err, fs.ErrNotExist) {
			if found {
				return nil, sqldb.Permanent(fmt.Errorf("%w: the database was sealed with a key that is not here: "+
					"the key file %s is missing; restore it, or set the encryption_key that was used", ErrKey, s.db.KeyFile()))
			}
			keys, err = createKeyFile(s.db.KeyFile())
		}
		if err != nil {
			return nil, err
		}
	}
	if !found {
		_, err := t.Exec(`INSERT INTO {meta} (name, value) VALUES (?, ?)`, keyCheckName, keys.seal(keyCheckPlace, []byte(keyCheckText)))
		return keys, err
	}
	if text, err := keys.open(keyCheckPlace, check); err != nil || string(text) != keyCheckText {
		which := "encryption_key"
		if s.configured == nil {
			which = "key file " + s.db.KeyFile()
		}
		return nil, sqldb.Permanent(fmt.Errorf("%w: the database was sealed with another key than the %s holds; nothing was changed", ErrKey, which))
	}
	return keys.withRetained(t, s.db.opts.Now())
}

// Secrets returns the keys in use, configured or generated, for tokens. It opens the store.
func (s *Store) Secrets(ctx context.Context) (*Keys, error) {
	if err := s.Open(ctx); err != nil {
		return nil, err
	}
	return s.keys.Load(), nil
}

// use returns the connections. It opens the store if it is not open.
func (s *Store) use(ctx context.Context) (*sqldb.Pools, error) {
	if s.keys.Load() == nil {
		now := s.db.opts.Now()
		if f := s.failed.Load(); f != nil && now.Sub(f.at) < openPause && !now.Before(f.at) {
			return nil, f.err
		}
		if err := s.Open(ctx); err != nil {
			if ctx.Err() == nil { // else it may be this request's own time that is up
				s.failed.Store(&failure{err, s.db.opts.Now()})
			}
			return nil, err
		}
	}
	if p := s.db.sql.Pools(); p != nil {
		return p, nil
	}
	return nil, s.db.sql.ErrClosed()
}
