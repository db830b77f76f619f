package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"maps"
	"slices"
	"strconv"
)

// OwnUsers is the name of the directory in the store itself.
const OwnUsers = "store"

// Names identify the sources of the ids in a database. A user's id is unique only within its
// directory, and an openid only within one WeChat. If a second directory or WeChat used the same
// tables, its user 1 could act as user 1 of the first.
type Names struct {
	// Directory is the name of the directory that assigns the users' ids.
	Directory string
	// WeChat holds, for each appid, the name of the WeChat that it belongs to.
	WeChat map[string]string
}

// NameError reports that the database belongs to another directory or, for an appid, to another
// WeChat. It is permanent.
type NameError struct {
	AppID                string // empty if the directory differs
	Recorded, Configured string
	// Users is set if no name is recorded, but the store has users of its own.
	Users bool
}

// Error names both the recorded and the configured side.
func (e *NameError) Error() string {
	switch {
	case e.AppID != "":
		return fmt.Sprintf("the openids of %s in the store belong to the WeChat %q, but the configuration has %q", e.AppID, e.Recorded, e.Configured)
	case e.Users:
		return fmt.Sprintf("the store has users of its own, but the configuration has the directory %q", e.Configured)
	}
	return fmt.Sprintf("the user ids in the store belong to the directory %q, but the configuration has %q", e.Recorded, e.Configured)
}

// The first three are the rows of meta that hold names. The last one is written to check that the
// database can be written.
const (
	directoryName = "directory"
	findName      = "directory_find"
	wechatPrefix  = "wechat:"
	writtenName   = "written"
)

// wechatName returns the name of an appid's row. If the appid is too long for the column, the name
// holds its hash.
func wechatName(appid string) string {
	if len(wechatPrefix)+len(appid) <= 64 {
		return wechatPrefix + appid
	}
	sum := sha256.Sum256([]byte(appid))
	return wechatPrefix + "#" + base64.RawURLEncoding.EncodeToString(sum[:])
}

// CheckNames compares names with the recorded ones, and records nothing. A name that is not
// recorded yet matches. An error that is a *[NameError] is permanent.
func (s *Store) CheckNames(ctx context.Context, n Names) error {
	return s.sql.Read(ctx, "reading the names", func(t *sqldb.Tx) error { return n.compare(t) })
}

// RecordNames records the names that are not recorded yet. If a name differs from the recorded one,
// it writes nothing and returns a *[NameError]. If two replicas record different names at the same
// time, one of them gets this error.
//
// find is the hash of the query that finds users in external tables, or empty. changed is true if
// another hash was recorded before.
//
// RecordNames always writes, so its success shows that the database can be written.
func (s *Store) RecordNames(ctx context.Context, n Names, find string) (changed bool, err error) {
	// A replica must be able to start while its store is closed, because tokens stay valid.
	err = s.sql.Rewrite(evenIfMoved(ctx), "recording the names", func(t *sqldb.Tx) error {
		changed = false
		if err := n.compare(t); err != nil {
			return err
		}
		if err := insertMeta(t, directoryName, n.Directory); err != nil {
			return err
		}
		for _, appid := range slices.Sorted(maps.Keys(n.WeChat)) {
			if err := insertMeta(t, wechatName(appid), n.WeChat[appid]); err != nil {
				return err
			}
		}
		if find != "" {
			var recorded []byte
			err := t.Row(`SELECT value FROM {meta} WHERE name = ?`, findName).Scan(&recorded)
			if err != nil && !errors.Is(err, sql.ErrNoRows) {
				return err
			}
			changed = err == nil && string(recorded) != find
			if err := writeMeta(t, findName, find); err != nil {
				return err
			}
		}
		if err := s.db.written(t); err != nil {
			return err
		}
		return n.compare(t) // another replica may have been faster
	})
	return changed && err == nil, err
}

// Identity returns a value that is unique to this database, however its address is spelled. It is a
// hash of the key check, which was sealed when the database was created.
func (s *Store) Identity(ctx context.Context) (id string, err error) {
	err = s.sql.Read(ctx, "reading the key check", func(t *sqldb.Tx) error {
		var check []byte
		err := t.Row(`SELECT value FROM {meta} WHERE name = ?`, keyCheckName).Scan(&check)
		id = fmt.Sprintf("%x", sha256.Sum256(check))
		return err
	})
	return id, err
}

// Probe writes to the database, and returns once that is durable.
func (s *Store) Probe(ctx context.Context) error {
	return s.sql.Rewrite(ctx, "writing", func(t *sqldb.Tx) error {
		if err := s.db.sql.InPlace(); err != nil {
			return err
		}
		return s.db.written(t)
	})
}

func (db *DB) written(t *sqldb.Tx) error {
	return writeMeta(t, writtenName, strconv.FormatInt(db.opts.Now().UnixMilli(), 10))
}

func insertMeta(t *sqldb.Tx, name, value string) error {
	_, err := t.Exec(`INSERT OR IGNORE INTO {meta} (name, value) VALUES (?, ?)`, name, []byte(value))
	return err
}

func writeMeta(t *sqldb.Tx, name, value string) error {
	_, err := t.Exec(`INSERT INTO {meta} (name, value) VALUES (?, ?)
		ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, []byte(value))
	return err
}

// compare returns a *NameError for the first name that differs from the recorded one.
func (n Names) compare(t *sqldb.Tx) error {
	recorded := make(map[string]string)
	err := t.Each(func(r sqldb.Row) error {
		var name string
		var value []byte
		err := r.Scan(&name, &value)
		recorded[name] = string(value)
		return err
	}, `SELECT name, value FROM {meta} WHERE name = ? OR name LIKE ?`, directoryName, wechatPrefix+"%")
	if err != nil {
		return err
	}
	directory, found := recorded[directoryName]
	switch {
	case found && directory != n.Directory:
		return sqldb.Permanent(&NameError{Recorded: directory, Configured: n.Directory})
	case !found && n.Directory != OwnUsers:
		// No name is recorded, so the store is older than this check. If it has users, its own
		// table was the directory.
		users, err := t.Strings(`SELECT id FROM {users} LIMIT 1`)
		if err != nil {
			return err
		}
		if len(users) > 0 {
			return sqldb.Permanent(&NameError{Recorded: OwnUsers, Configured: n.Directory, Users: true})
		}
	}
	for _, appid := range slices.Sorted(maps.Keys(n.WeChat)) {
		name, found := recorded[wechatName(appid)]
		if found && name != n.WeChat[appid] {
			return sqldb.Permanent(&NameError{AppID: appid, Recorded: name, Configured: n.WeChat[appid]})
		}
	}
	return nil
}

// Survey is an overview of a store for operators.
type Survey struct {
	// Created is set if this process has created the tables.
	Created bool
	// Schema is the version of the tables.
	Schema int
	// Users is the number of the store's own users, OpenIDs the number of bound openids. Neither is
	// counted beyond SurveyLimit.
	Users, OpenIDs int
}

// SurveyLimit bounds the counts of a [Survey].
const SurveyLimit = 10_000

// Survey returns an overview of the store.
func (s *Store) Survey(ctx context.Context) (v Survey, err error) {
	v.Created = s.db.created.Load()
	err = s.sql.Read(ctx, "counting the users", func(t *sqldb.Tx) (err error) {
		if v.Schema, err = s.db.version(t); err != nil {
			return err
		}
		for table, n := range map[string]*int{"users": &v.Users, "bindings": &v.OpenIDs} {
			if err := t.Row(`SELECT COUNT(*) FROM (SELECT 1 FROM {` + table + `} LIMIT ` + strconv.Itoa(SurveyLimit) + `) AS counted`).Scan(n); err != nil {
				return err
			}
		}
		return nil
	})
	return v, err
}
