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

// A dialect holds what differs between kinds of databases. The SQL in this package is written once,
// in a form common to SQLite and PostgreSQL, with
//
//	{name}      a table, with the configured prefix
//	{now}       the database's clock, in milliseconds since 1970
//	{lock}      behind a SELECT: lock the rows until the transaction ends
//	{found}     behind an UPDATE of one row: ask for the number of rows found, 1 or 0 or no answer
//	{id 64}     in CREATE TABLE: text compared byte by byte, of at most 64 characters
//	{text 64}   any text of at most 64 characters
//	{int}       a signed 64-bit integer: counters, switches, times in milliseconds
//	{bytes 32}  bytes, at most 32
//	{blob}      bytes, at most 64 KiB
//	{serial}    a primary key that counts up and never repeats a number
//	{options}   behind CREATE TABLE (…)
//
// and ? for parameters, INSERT OR IGNORE, and ON CONFLICT (…) DO UPDATE SET c = excluded.c. rewrite
// turns these into the database's own form. The affected rows of an UPDATE must be the rows found,
// not the rows changed (MySQL: clientFoundRows=true).
type dialect struct {
	name string

	// port is the server's default port. It is empty if the database is a file, and then the
	// generated key is stored beside the file.
	port string

	// external describes how external tables are read. It is nil if such a database cannot hold
	// them.
	external *externalDialect

	// parse parses the address without I/O, and refuses one that is not valid for this kind of
	// database. Its errors contain no part of a password.
	parse func(db *DB, address string) error

	// replaced are the words in braces, "{now}" and so on.
	replaced []string

	// rewrite adapts parameters, INSERT OR IGNORE and ON CONFLICT.
	rewrite func(query string) string

	// bytes is the format of a bytes literal. Its argument is printed in hexadecimal.
	bytes string

	// open connects and, if create is set, creates what that needs. An error that only the operator
	// can fix is permanent.
	open func(ctx context.Context, db *DB, create bool) (*pools, error)

	// alone runs do under a lock, so that no other caller with this prefix runs it at the same
	// time, in this process or another. If the database can undo changes of its schema, do runs in
	// one transaction.
	alone func(ctx context.Context, db *DB, p *pools, do func(*tx) error) error

	// hasTable asks the database's catalogue whether a table exists.
	hasTable string

	// oneWriter is set if a writing transaction keeps all others out.
	oneWriter bool

	// deleteLimit is set if DELETE accepts ORDER BY and LIMIT, and is slow without them.
	deleteLimit bool

	// byIndex is run before many rows are looked up at once in tables that may have been small when
	// the planner last saw them. It is empty if no plan depends on that.
	byIndex string

	// begin begins a transaction in which each statement sees what was committed before the
	// statement. light makes it a transaction whose commit does not wait for the disk. light is
	// empty if the database has no such transactions, or if the queue does this.
	begin, light string

	// guard holds the first statements of each transaction that writes. They take a lock that
	// closeAlone waits for, and fail if the store is closed, see moved.go. guard is empty if the
	// queue checks this.
	guard []string

	// guardFailed reports whether a guard failed because the store is closed.
	guardFailed func(error) bool

	// closeAlone waits until no other transaction that writes is under way, and makes new ones wait
	// until its own transaction ends. It is empty if there is nothing to wait for.
	closeAlone string

	// send runs statements on a connection in one turnaround, and stops at the first one that
	// fails. It is nil if there is no network to wait for.
	send func(ctx context.Context, db *DB, conn *sql.Conn, statements []statement) error

	// impatient makes the locks of a transaction time out soon. patient ends that after the COMMIT.
	// They are for transactions with several callers' writes, see group_commit.go, if the server
	// does not notice that its client has given up. Otherwise they are empty.
	impatient, patient string

	// options apply to every transaction.
	options *sql.TxOptions

	// temporary reports whether the cause of the error is the state of the database (locked, away,
	// full) and not the statement.
	temporary func(error) bool

	// conflict reports whether a transaction was undone because of another one, or could not begin.
	// It may then be run again as a whole.
	conflict func(error) bool

	// lost reports whether the connection is gone. Then the last statement may or may not have been
	// executed, and a transaction that had not reached its commit is undone.
	lost func(error) bool

	// duplicate reports whether a unique index refused a row.
	duplicate func(error) bool

	// denied reports whether the user lacks a permission.
	denied func(error) bool

	// readOnly reports whether the database answers but accepts no write.
	readOnly func(error) bool

	// grants returns the statements that let a user other than the tables' owner work with them. It
	// is nil if the database has no users.
	grants func(prefix string) []string

	// done reports whether a change of the schema was refused because it had been made before. It
	// is nil if such changes are part of transactions.
	done func(error) bool
}

// dialects holds every dialect by the schemes of its addresses.
var dialects = map[string]*dialect{
	"sqlite": sqlite, "postgres": postgres, "postgresql": postgres, "mysql": mysql,
}

// connectionLost reports whether the error means a broken connection, for any driver.
func connectionLost(err error) bool {
	var n net.Error
	return errors.As(err, &n) ||
		errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// tableNames lists all tables in the order of their creation.
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
	// {prefix} is for indexes: in SQLite and PostgreSQL all index names share one name space.
	pairs = append(pairs, "{prefix}", prefix)
	return strings.NewReplacer(pairs...)
}

// sql returns query in the database's own dialect.
func (db *DB) sql(query string) string {
	if done, ok := db.queries.Load(query); ok {
		return done.(string)
	}
	done := db.dialect.rewrite(db.tables.Replace(query))
	db.queries.Store(query, done)
	return done
}
