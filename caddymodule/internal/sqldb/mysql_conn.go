package sqldb

import (
	"context"
	"database/sql/driver"
	"strings"
)

// mysqlConnector opens connections that keep their prepared statements. The driver would prepare a
// statement for each use, which costs one more turnaround. database/sql would keep prepared
// statements, but use a second connection for them.
type mysqlConnector struct{ driver.Connector }

func (c mysqlConnector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	m := &mysqlConn{mysqlDriverConn: conn.(mysqlDriverConn), prepared: map[string]preparedStmt{}}
	// READ COMMITTED locks no gaps between rows. The variable for it has different names in
	// different versions, so a statement sets it.
	if _, err := m.mysqlDriverConn.ExecContext(ctx, "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED", nil); err != nil {
		conn.Close()
		return nil, err
	}
	return m, nil
}

// mysqlDriverConn is the set of methods that we use of the driver's connection.
type mysqlDriverConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.NamedValueChecker
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}

type preparedStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// mysqlConn is used by one goroutine at a time.
type mysqlConn struct {
	mysqlDriverConn
	prepared map[string]preparedStmt
}

// maxPrepared bounds the prepared statements of a connection. The server limits their number for
// all connections (max_prepared_stmt_count, by default 16382). The store has fewer different
// statements.
const maxPrepared = 64

// statement returns query as a prepared statement. It returns nil if the server cannot prepare it.
// Then the driver escapes the parameters and writes them into the text.
func (c *mysqlConn) statement(ctx context.Context, query string) (preparedStmt, error) {
	if s, ok := c.prepared[query]; ok {
		return s, nil
	}
	if len(c.prepared) >= maxPrepared {
		return nil, nil
	}
	prepared, err := c.PrepareContext(ctx, query)
	if err != nil {
		switch MySQLNumber(err) {
		case 1461, 1295: // too many statements are prepared, or this one cannot be
			return nil, nil
		}
		return nil, err
	}
	s := prepared.(preparedStmt)
	c.prepared[query] = s
	return s, nil
}

// forget closes a statement that the server no longer knows, or that it must prepare again. The
// tables have changed, or a proxy has moved us to another server.
func (c *mysqlConn) forget(query string, err error) (forgotten bool) {
	switch MySQLNumber(err) {
	case 1243, 1615:
		c.prepared[query].Close()
		delete(c.prepared, query)
		return true
	}
	return false
}

func (c *mysqlConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if len(args) > 0 && !strings.Contains(query, together) {
		s, err := c.statement(ctx, query)
		if err != nil {
			return nil, err
		}
		if s != nil {
			r, err := s.ExecContext(ctx, args)
			if err == nil || !c.forget(query, err) {
				return r, err
			}
		}
	}
	return c.mysqlDriverConn.ExecContext(ctx, query, args)
}

func (c *mysqlConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if len(args) > 0 && !strings.Contains(query, together) {
		s, err := c.statement(ctx, query)
		if err != nil {
			return nil, err
		}
		if s != nil {
			r, err := s.QueryContext(ctx, args)
			if err == nil || !c.forget(query, err) {
				return r, err
			}
		}
	}
	return c.mysqlDriverConn.QueryContext(ctx, query, args)
}
