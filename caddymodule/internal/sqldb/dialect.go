package sqldb

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"strings"
)

// A Dialect holds what differs between kinds of databases. SQL is written once, in a form common to
// SQLite and PostgreSQL, with
//
//	{name}      a table, with the configured prefix
//	{now}       the database's clock, in milliseconds since 1970
//	{lock}      behind a SELECT: lock the rows until the transaction ends
//	{share}     the same on MySQL, but others may share the lock
//	{found}     behind an UPDATE of one row: ask for the number of rows found, 1 or 0 or no answer
//	{id 64}     in CREATE TABLE: text compared byte by byte, of at most 64 characters
//	{text 64}   any text of at most 64 characters
//	{int}       a signed 64-bit integer: counters, switches, times in milliseconds
//	{bytes 32}  bytes, at most 32
//	{blob}      bytes, at most 64 KiB
//	{serial}    a primary key that counts up and never repeats a number
//	{options}   behind CREATE TABLE (…)
//	{prefix}    the configured prefix, for names of indexes
//
// and ? for parameters, INSERT OR IGNORE, and ON CONFLICT (…) DO UPDATE SET c = excluded.c. Rewrite
// turns these into the database's own form. The affected rows of an UPDATE must be the rows found,
// not the rows changed (MySQL: clientFoundRows=true).
type Dialect struct {
	// Name is "sqlite", "postgres" or "mysql".
	Name string

	// Port is the server's default port. It is empty if the database is a file, and then the
	// generated key is stored beside the file.
	Port string

	// plainText is the parameter of an address that turns TLS off. It is empty for a file.
	plainText string

	// parse parses the address without I/O, and refuses one that is not valid for this kind of
	// database. Its errors contain no part of a password.
	parse func(db *DB, address string) error

	// replaced are the words in braces, "{now}" and so on.
	replaced []string

	// Rewrite adapts parameters, INSERT OR IGNORE and ON CONFLICT.
	Rewrite func(query string) string

	// Bytes is the format of a bytes literal. Its argument is printed in hexadecimal.
	Bytes string

	// open connects and, if create is set, creates what that needs. An error that only the operator
	// can fix is permanent.
	open func(ctx context.Context, db *DB, create bool) (*Pools, error)

	// Alone runs do under a lock, so that no other caller with this prefix runs it at the same
	// time, in this process or another. If the database can undo changes of its schema, do runs in
	// one transaction.
	Alone func(ctx context.Context, db *DB, p *Pools, do func(*Tx) error) error

	// HasTable is a query for the number of tables that have the name in its parameter.
	HasTable string

	// OneWriter is set if a writing transaction keeps all others out.
	OneWriter bool

	// DeleteLimit is set if DELETE accepts ORDER BY and LIMIT, and is slow without them.
	DeleteLimit bool

	// ByIndex is run before many rows are looked up at once in tables that may have been small when
	// the planner last saw them. It is empty if no plan depends on that.
	ByIndex string

	// begin begins a transaction in which each statement sees what was committed before the
	// statement. light makes it a transaction whose commit does not wait for the disk. light is
	// empty if the database has no such transactions, or if the queue does this.
	begin, light string

	// send runs statements on a connection in one turnaround, and stops at the first one that
	// fails. It is nil if there is no network to wait for.
	send func(ctx context.Context, db *DB, conn *sql.Conn, statements []Statement) error

	// impatient makes the locks of a transaction time out soon. patient ends that after the COMMIT.
	// They are for transactions with several callers' writes, see group_commit.go, if the server
	// does not notice that its client has given up. Otherwise they are empty.
	impatient, patient string

	// options apply to every transaction.
	options *sql.TxOptions

	// Temporary reports whether the cause of the error is the state of the database (locked, away,
	// full) and not the statement.
	Temporary func(error) bool

	// conflict reports whether a transaction was undone because of another one, or could not begin.
	// It may then be run again as a whole.
	conflict func(error) bool

	// lost reports whether the connection is gone. Then the last statement may or may not have been
	// executed, and a transaction that had not reached its commit is undone.
	lost func(error) bool

	// SeveralRows reports whether a query that must return one value has found several rows.
	SeveralRows func(error) bool

	// Duplicate reports whether a unique index refused a row.
	Duplicate func(error) bool

	// Denied reports whether the user lacks a permission.
	Denied func(error) bool

	// readOnly reports whether the database answers but accepts no write.
	readOnly func(error) bool

	// Done reports whether a change of the schema was refused because it had been made before. It
	// is nil if such changes are part of transactions.
	Done func(error) bool
}

// dialects holds every dialect by the schemes of its addresses.
var dialects = map[string]*Dialect{
	"sqlite": sqlite, "postgres": postgres, "postgresql": postgres, "mysql": mysql,
}

// connectionLost reports whether the error means a broken connection, for any driver.
func connectionLost(err error) bool {
	var n net.Error
	return errors.As(err, &n) ||
		errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// Words fills in the names of tables and the dialect's words.
func (d *Dialect) Words(prefix string, tables []string) *strings.Replacer {
	pairs := append([]string(nil), d.replaced...)
	for _, name := range tables {
		pairs = append(pairs, "{"+name+"}", prefix+name)
	}
	// {prefix} is for indexes: in SQLite and PostgreSQL all index names share one name space.
	pairs = append(pairs, "{prefix}", prefix)
	return strings.NewReplacer(pairs...)
}

// SQL returns query in the database's own dialect.
func (db *DB) SQL(query string) string {
	if done, ok := db.queries.Load(query); ok {
		return done.(string)
	}
	done := db.Dialect.Rewrite(db.words.Replace(query))
	db.queries.Store(query, done)
	return done
}

// Rewritten calls each for every query that was used so far, with the SQL of the database.
// It is for tests.
func (db *DB) Rewritten(each func(query, sql string)) {
	db.queries.Range(func(query, sql any) bool {
		each(query.(string), sql.(string))
		return true
	})
}
