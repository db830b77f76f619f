package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"net"
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

	// port is a server's default port; empty: the database is a file, and its generated
	// key lies beside it.
	port string

	// foreign is how a team's own tables are read; nil: they cannot be in such a database.
	foreign *foreignDialect

	// parse takes the address apart, without I/O, and refuses what is no
	// address of such a database. Its errors hold no part of a password.
	parse func(db *DB, address string) error

	// replaced are the words in braces, "{now}" and so on.
	replaced []string

	// rewrite adapts parameters, INSERT OR IGNORE and ON CONFLICT.
	rewrite func(query string) string

	// bytes is the format of a literal of bytes, for its hexadecimal digits.
	bytes string

	// open connects, and creates what must be there for that if it may. What the
	// operator must mend is a permanent error.
	open func(ctx context.Context, db *DB, create bool) (*pools, error)

	// alone runs do while nobody else who calls alone with this prefix is at
	// it, in this process or another. Where the database can undo changes of
	// its schema, do is one transaction.
	alone func(ctx context.Context, db *DB, p *pools, do func(*tx) error) error

	// hasTable asks the database's catalogue whether the table is there.
	hasTable string

	// oneWriter: a writing transaction keeps all others out.
	oneWriter bool

	// deleteLimit: DELETE takes ORDER BY and LIMIT, and is slow without.
	deleteLimit bool

	// byIndex is asked before many rows are looked up at once, in tables that
	// were empty a moment ago; empty where no plan depends on that.
	byIndex string

	// begin begins a transaction whose statements each see what is committed by then;
	// light makes it one that need not be on disk when it is committed: empty where
	// there is no such thing, or the queue sees to it.
	begin, light string

	// send runs statements on a connection, all in one turnaround. The first one that
	// fails is the last. nil: there is nothing to wait for.
	send func(ctx context.Context, db *DB, conn *sql.Conn, statements []statement) error

	// options are those of every transaction.
	options *sql.TxOptions

	// temporary reports whether the error is about the database's state
	// (locked, away, full), not about the question.
	temporary func(error) bool

	// conflict reports whether a transaction was undone because of another one,
	// or could not begin at the moment, and may be run again as a whole.
	conflict func(error) bool

	// lost reports whether the connection is gone: what was asked last was done
	// or not, and a transaction that had not come to its commit is undone.
	lost func(error) bool

	// duplicate reports whether a unique index refused a row.
	duplicate func(error) bool

	// denied reports whether the user lacks a permission.
	denied func(error) bool

	// readOnly reports whether the database answers, and takes no write.
	readOnly func(error) bool

	// grants are the statements that let another user than the tables' owner
	// work with them; nil where databases have no users.
	grants func(prefix string) []string

	// done reports whether a change of the schema was refused because it had
	// been made before. Only where such changes are no part of transactions;
	// elsewhere nil.
	done func(error) bool
}

// dialects are all there are, by the scheme of their address.
var dialects = map[string]*dialect{
	"sqlite": sqlite, "postgres": postgres, "postgresql": postgres, "mysql": mysql,
}

// connectionLost is what a broken connection looks like, whatever the driver.
func connectionLost(err error) bool {
	var n net.Error
	return errors.As(err, &n) ||
		errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// tableNames are all tables, in the order of their creation.
var tableNames = []string{
	"meta", "users", "user_phones", "bindings", "sessions", "revocations",
	"signing_keys", "kept_steps", "claimed_steps", "access_tokens", "user_locks", "barred_users",
	"former_openids",
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
