package sqldb

import (
	"context"
	"database/sql"
	sqldriver "database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	driver "modernc.org/sqlite"
	codes "modernc.org/sqlite/lib"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/clock"
)

var sqlite = &Dialect{
	Name:  "sqlite",
	parse: parseSQLite,
	replaced: []string{
		"{now}", "CAST(unixepoch('subsec') * 1000 AS INTEGER)",
		"{share}", "", "{found}", "RETURNING 1",
		"{lock}", "", // not needed: a writing transaction locks the whole database from its start
		"{id 32}", "TEXT", "{id 64}", "TEXT", "{id 128}", "TEXT", "{text 512}", "TEXT",
		"{int}", "INTEGER", "{bytes 32}", "BLOB", "{blob}", "BLOB",
		"{serial}", "INTEGER PRIMARY KEY AUTOINCREMENT",
		// STRICT makes a value of the wrong type an error, as in the other databases.
		"{options}", "STRICT",
	},
	Rewrite: func(query string) string { return query },
	Bytes:   "x'%x'",
	open:    openSQLite,
	// A writing transaction keeps other processes out.
	Alone: func(ctx context.Context, db *DB, p *Pools, do func(*Tx) error) error {
		if err := db.Transaction(ctx, p.Write, Once, do); err != nil {
			return err
		}
		return p.queue.flush()
	},
	OneWriter:   true,
	HasTable:    `SELECT COUNT(*) FROM sqlite_schema WHERE type = 'table' AND name = ?`,
	Temporary:   sqliteTemporary,
	conflict:    func(err error) bool { return sqliteCode(err)&0xff == codes.SQLITE_BUSY },
	SeveralRows: func(error) bool { return false },
	lost:        func(error) bool { return false },
	Denied:      func(error) bool { return false },
	readOnly:    func(err error) bool { return sqliteCode(err)&0xff == codes.SQLITE_READONLY },
	Duplicate: func(err error) bool {
		c := sqliteCode(err)
		return c == codes.SQLITE_CONSTRAINT_UNIQUE || c == codes.SQLITE_CONSTRAINT_PRIMARYKEY
	},
}

const (
	// busyTimeout is how long SQLite waits for another process's lock.
	busyTimeout = 4 * time.Second

	// readers is the number of connections that only read. One more connection writes.
	readers = 4
)

// parseSQLite parses sqlite:<path>.
func parseSQLite(db *DB, address string) error {
	path := strings.TrimPrefix(strings.TrimPrefix(address, "sqlite:"), "//")
	switch {
	case path == "" || strings.HasSuffix(path, "/") || strings.HasSuffix(path, string(filepath.Separator)):
		return errors.New("sqlite needs the path of a file: sqlite:<path>")
	case path == ":memory:" || strings.HasPrefix(path, "file:"):
		return errors.New("sqlite needs the path of a file, so that users outlive a restart: sqlite:<path>")
	case strings.ContainsAny(path, "?#\x00"):
		return errors.New("sqlite takes a path alone, without parameters: sqlite:<path>")
	}
	db.url, db.path = "sqlite "+path, filepath.Clean(path)
	return nil
}

func openSQLite(ctx context.Context, db *DB, create bool) (*Pools, error) {
	path, err := filepath.Abs(db.path)
	if err != nil {
		return nil, err
	}
	if err := db.createFile(path, create); err != nil {
		return nil, err
	}
	// SQLite keeps its log beside the file itself, not beside a link to it.
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return nil, FileError(err)
	}
	write := sqliteConnections(path, 1, "_txlock=immediate", "_pragma=journal_mode(WAL)", "_pragma=synchronous(NORMAL)",
		// The log is moved into the file less often than by default. So a page that changes all the
		// time is written to the file less often.
		"_pragma=wal_autocheckpoint(4000)",
		// A log that has grown in a burst shrinks again.
		"_pragma=journal_size_limit(16777216)")
	mode, err := sqliteReady(ctx, write)
	switch {
	case err != nil:
		write.Close()
		return nil, sqliteOpenError(err)
	case mode != "wal":
		write.Close()
		return nil, permanent{fmt.Errorf("journal mode %s instead of wal: keep the file on a local disk", mode)}
	}
	if info, err := os.Stat(path); err == nil {
		db.file.Store(&info)
	}
	return &Pools{
		Write: write,
		Read:  sqliteConnections(path, readers, "_query_only=1"),
		queue: &queue{pool: write, flush: func() error { return db.flushLog(path + "-wal") }},
	}, nil
}

// sqliteReady connects, returns the journal mode, and checks that the file can be written.
func sqliteReady(ctx context.Context, pool *sql.DB) (mode string, err error) {
	for {
		// If several processes open a new file at the same time, SQLite may report a lock here at
		// once, without waiting for busyTimeout.
		err = pool.QueryRowContext(ctx, `PRAGMA journal_mode`).Scan(&mode)
		if sqliteCode(err)&0xff != codes.SQLITE_BUSY || !clock.Sleep(ctx, 10*time.Millisecond) {
			break
		}
	}
	if err != nil {
		return "", err
	}
	t, err := pool.BeginTx(ctx, nil) // takes the write lock
	if err != nil {
		return "", err
	}
	defer t.Rollback()
	// SQLite opens a file without write permission as read-only, and reports that only at the first
	// change.
	if _, err := t.ExecContext(ctx, `PRAGMA user_version = 1`); err != nil {
		return "", err
	}
	return mode, t.Rollback()
}

// sqliteDriver is the registered driver.
var sqliteDriver = func() sqldriver.Driver {
	pool, _ := sql.Open("sqlite", "") // fails only for a driver that is not registered
	defer pool.Close()
	return pool.Driver()
}()

// sqliteConnections returns a pool of connections to the file at path. None is open yet.
func sqliteConnections(path string, max int, params ...string) *sql.DB {
	path = filepath.ToSlash(path)
	if !strings.HasPrefix(path, "/") {
		path = "/" + path // C:/…
	}
	params = append(params, "_busy_timeout="+strconv.FormatInt(busyTimeout.Milliseconds(), 10), "_dqs=0", "_defensive=1")
	dsn := "file://" + (&url.URL{Path: path}).EscapedPath() + "?" + strings.Join(params, "&")
	pool := sql.OpenDB(sqliteConnector{sqliteDriver, dsn})
	pool.SetMaxOpenConns(max)
	pool.SetMaxIdleConns(max)
	return pool
}

// sqliteCode returns SQLite's extended result code, or 0 if err does not come from SQLite.
func sqliteCode(err error) int {
	var e *driver.Error
	if errors.As(err, &e) {
		return e.Code()
	}
	return 0
}

func sqliteTemporary(err error) bool {
	switch sqliteCode(err) & 0xff {
	case codes.SQLITE_BUSY, codes.SQLITE_LOCKED, codes.SQLITE_IOERR, codes.SQLITE_FULL, codes.SQLITE_NOMEM,
		codes.SQLITE_PROTOCOL, codes.SQLITE_INTERRUPT, codes.SQLITE_ABORT, codes.SQLITE_CANTOPEN, codes.SQLITE_READONLY:
		return true
	}
	return false
}

// sqliteOpenError marks errors as permanent that only the operator can fix. It is for errors while
// the file is opened. A disk that becomes read-only later counts as temporary.
func sqliteOpenError(err error) error {
	switch sqliteCode(err) & 0xff {
	case codes.SQLITE_CANTOPEN, codes.SQLITE_PERM, codes.SQLITE_AUTH:
		return permanent{fmt.Errorf("%w (the store needs a file and a directory that it may write to)", err)}
	}
	if sqliteDamaged(err) {
		return permanent{fmt.Errorf("%w: %w (restore the file from a backup, or point the store elsewhere)", ErrDamaged, err)}
	}
	return err
}

// sqliteDamaged reports whether SQLite has found that the file's content makes no sense.
func sqliteDamaged(err error) bool {
	c := sqliteCode(err) & 0xff
	return c == codes.SQLITE_CORRUPT || c == codes.SQLITE_NOTADB
}
