package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// The migrations in the order of their names. A released migration is never edited: every change is
// a new file.
//
//go:embed migrations/*.sql
var migrationFiles embed.FS

// migrations holds the statements of each version, starting with version 1.
var migrations = func() (all [][]string) {
	names, err := fs.Glob(migrationFiles, "migrations/*.sql") // Glob sorts them
	if err != nil {
		panic(err)
	}
	for _, name := range names {
		text, err := migrationFiles.ReadFile(name)
		if err != nil {
			panic(err)
		}
		all = append(all, slices.DeleteFunc(strings.SplitAfter(string(text), ";\n"), func(s string) bool { return strings.TrimSpace(s) == "" }))
	}
	return all
}()

const versionName = "schema_version"

// version returns the version of the schema, or 0 if there is none.
func (db *DB) version(t *sqldb.Tx) (int, error) {
	var n int
	if err := t.Row(db.sql.Dialect.HasTable, db.opts.Prefix+"meta").Scan(&n); err != nil || n == 0 {
		return 0, err
	}
	var text []byte
	err := t.Row(`SELECT value FROM {meta} WHERE name = ?`, versionName).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil // a migration was interrupted in a database that cannot undo it
	}
	if err != nil {
		return 0, err
	}
	n, err = strconv.Atoi(string(text))
	if err != nil {
		return 0, sqldb.Permanent(fmt.Errorf("%w: its version is not a number", ErrSchema))
	}
	return n, nil
}

// tablesBy states what creates the tables and keeps them up to date.
type tablesBy int

const (
	bySelf     tablesBy = iota // the store itself, when it is opened
	byOperator                 // the operator, by hand
	byCaddy                    // Caddy when it runs, and not this command
)

// acceptable returns an error for a version that this build can neither use nor migrate.
func (db *DB) acceptable(version int, by tablesBy) error {
	latest := len(migrations)
	var err error
	switch {
	case version > latest:
		err = fmt.Errorf("%w: it has version %d and this build knows %d: it was written by a newer caddy-wx-auth: use that version or a later one", ErrSchema, version, latest)
	case version == latest || by == bySelf:
		return nil
	case version == 0 && by == byCaddy:
		err = fmt.Errorf("%w: %w: the tables %s… are missing", ErrSchema, ErrNone, db.opts.Prefix)
	case version == 0:
		err = fmt.Errorf("%w: the tables %s… are missing and migrate is off: create them with the SQL that `caddy wx-auth schema` prints", ErrSchema, db.opts.Prefix)
	case by == byCaddy:
		err = fmt.Errorf("%w: it has version %d and this build needs %d: start Caddy with this build, which migrates it", ErrSchema, version, latest)
	default:
		err = fmt.Errorf("%w: it has version %d, this build needs %d, and migrate is off: migrate it with the SQL that `caddy wx-auth schema … --from %d` prints", ErrSchema, version, latest, version)
	}
	return sqldb.Permanent(err)
}

// prepare migrates the tables to the latest version, or only verifies them.
func (db *DB) prepare(ctx context.Context, p *sqldb.Pools, by tablesBy) error {
	asking := db.sql.Asking(ctx, p.Write)
	version, err := db.version(asking)
	if err != nil {
		return err
	}
	changed := version < len(migrations)
	for version < len(migrations) {
		if err := db.acceptable(version, by); err != nil {
			return err
		}
		err := db.sql.Dialect.Alone(ctx, db.sql, p, func(t *sqldb.Tx) error {
			// Another process may have migrated first.
			if version, err = db.version(t); err != nil || version >= len(migrations) {
				return err
			}
			return db.migrate(t, version+1)
		})
		if err != nil {
			return err
		}
		version++
	}
	if version, err = db.version(asking); err != nil {
		return err
	}
	if err := db.acceptable(version, by); err != nil {
		return err
	}
	if changed || by != bySelf {
		if err := db.verify(asking); err != nil {
			return err
		}
	}
	db.ready.Store(true)
	return nil
}

// migrate changes the schema to this version from the one before.
func (db *DB) migrate(t *sqldb.Tx, version int) error {
	for _, statement := range migrations[version-1] {
		_, err := t.Exec(statement)
		if err == nil || db.sql.Dialect.Done != nil && db.sql.Dialect.Done(err) {
			continue
		}
		err = fmt.Errorf("migrating the schema to version %d: %w", version, err)
		if db.sql.Dialect.Denied(err) {
			err = sqldb.Permanent(fmt.Errorf("%w (give the user the right to create tables and indexes, or create them with the SQL that `caddy wx-auth schema` prints and set migrate off)", err))
		}
		return err
	}
	return setVersion(t, version)
}

func setVersion(t *sqldb.Tx, version int) error {
	_, err := t.Exec(`INSERT INTO {meta} (name, value) VALUES (?, ?)
		ON CONFLICT (name) DO UPDATE SET value = excluded.value`, versionName, []byte(strconv.Itoa(version)))
	return err
}

// columns lists the columns that each table must have.
var columns = map[string]string{
	"meta":          "name, value",
	"users":         "id, phone, disabled, created_at",
	"user_phones":   "phone_hash, key_id, user_id",
	"bindings":      bindingColumns + ", state_at, bound_at",
	"sessions":      sessionColumns,
	"revocations":   "seq, session_id, until_at, recorded_at",
	"signing_keys":  signingKeyColumns,
	"kept_steps":    "step, value, expires_at, spent",
	"claimed_steps": "step, owner, lease_until, seen_at",
	"access_tokens": "appid, token, fetched_at, expires_at, owner, lease_until",
	"user_locks":    "stripe",
	"barred_users":  "user_id, erased_at, disabled",

	"former_openids": "user_id, appid, openid, unionid, left_at",
}

// verify checks that every table has the expected columns. It selects them, but no row.
func (db *DB) verify(t *sqldb.Tx) error {
	var missing []error
	for _, name := range tableNames {
		err := t.Each(nil, `SELECT `+columns[name]+` FROM {`+name+`} WHERE 1 = 0`)
		if err != nil {
			if db.sql.Dialect.Temporary(err) || t.Context().Err() != nil {
				return err
			}
			missing = append(missing, fmt.Errorf("%s%s: %w", db.opts.Prefix, name, err))
		}
	}
	if len(missing) > 0 {
		return sqldb.Permanent(fmt.Errorf("%w: create the tables with the SQL that `caddy wx-auth schema` prints: %w", ErrSchema, errors.Join(missing...)))
	}
	return nil
}
