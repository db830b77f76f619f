package store

import (
	"context"
	"strings"
)

// A dialect is what one kind of database does differently. The SQL in this
// package is written once, as SQLite and PostgreSQL read it, with
//
//	{name}      a table, with the configured prefix
//	{now}       the database's clock, in milliseconds since 1970
//	{lock}      behind a SELECT: lock the rows until the transaction ends
//	{id 64}     in CREATE TABLE: text compared byte by byte, of at most 64 characters
//	{text 64}   any text of at most 64 characters
//	{int}       a signed 64-bit integer: counters, switches, times in milliseconds
//	{bytes 32}  bytes, at most 32
//	{blob}      bytes, at most 64 KiB
//	{serial}    a primary key that counts up and never repeats a number
//	{options}   behind CREATE TABLE (…)
//
// and ? for parameters, INSERT OR IGNORE, and ON CONFLICT (…) DO UPDATE SET
// c = excluded.c; rewrite turns these into what the database takes. Rows
// affected by an UPDATE must be those found, not those changed (MySQL:
// clientFoundRows=true).
type dialect struct {
	name string

	// replaced are the words in braces, "{now}" and so on.
	replaced []string

	// rewrite adapts parameters, INSERT OR IGNORE and ON CONFLICT.
	rewrite func(query string) string

	// open creates what must be there and connects. What the operator must mend
	// is a permanent error.
	open func(ctx context.Context, db *DB) (*pools, error)

	// hasTable asks the database's catalogue whether the table is there.
	hasTable string

	// temporary reports whether the error is about the database's state
	// (locked, away, full), not about the question.
	temporary func(error) bool

	// conflict reports whether a transaction lost against another one, and may
	// be run again as a whole.
	conflict func(error) bool

	// duplicate reports whether a unique index refused a row.
	duplicate func(error) bool
}

// tableNames are all tables, in the order of their creation.
var tableNames = []string{
	"meta", "users", "user_phones", "bindings", "sessions", "revocations",
	"signing_keys", "kept_steps", "claimed_steps", "access_tokens",
}

// replacer fills in table names and the dialect's words.
func (d *dialect) replacer(prefix string) *strings.Replacer {
	pairs := append([]string(nil), d.replaced...)
	for _, name := range tableNames {
		pairs = append(pairs, "{"+name+"}", prefix+name)
	}
	// Index names share one name space in SQLite and PostgreSQL.
	pairs = append(pairs, "{prefix}", prefix)
	return strings.NewReplacer(pairs...)
}

// sql is query as the database takes it.
func (db *DB) sql(query string) string {
	if done, ok := db.queries.Load(query); ok {
		return done.(string)
	}
	done := db.dialect.rewrite(db.tables.Replace(query))
	db.queries.Store(query, done)
	return done
}
