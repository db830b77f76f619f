package sqldb

import (
	"context"
	"database/sql/driver"
)

// sqliteConnector opens connections that keep their prepared statements. Parsing the SQL each time
// would be a sixth of the cost of a login. SQLite prepares them again by itself when the schema
// changes.
type sqliteConnector struct {
	driver driver.Driver
	dsn    string
}

func (c sqliteConnector) Driver() driver.Driver { return c.driver }

func (c sqliteConnector) Connect(context.Context) (driver.Conn, error) {
	conn, err := c.driver.Open(c.dsn)
	if err != nil {
		return nil, err
	}
	return &sqliteConn{sqliteDriverConn: conn.(sqliteDriverConn), prepared: map[string]preparedStmt{}}, nil
}

// sqliteDriverConn is the set of methods that we use of the driver's connection.
type sqliteDriverConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}

// sqliteConn is used by one goroutine at a time.
type sqliteConn struct {
	sqliteDriverConn
	prepared map[string]preparedStmt
}

// statement returns query as a prepared statement. It returns nil for queries that do not repeat,
// such as the statements of a migration, which have no parameters.
func (c *sqliteConn) statement(ctx context.Context, query string, args []driver.NamedValue) (preparedStmt, error) {
	if s, ok := c.prepared[query]; ok {
		return s, nil
	}
	if len(args) == 0 || len(c.prepared) >= maxPrepared {
		return nil, nil
	}
	prepared, err := c.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	s := prepared.(preparedStmt)
	c.prepared[query] = s
	return s, nil
}

func (c *sqliteConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	s, err := c.statement(ctx, query, args)
	if err != nil {
		return nil, err
	}
	if s != nil {
		return s.ExecContext(ctx, args)
	}
	return c.sqliteDriverConn.ExecContext(ctx, query, args)
}

func (c *sqliteConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	s, err := c.statement(ctx, query, args)
	if err != nil {
		return nil, err
	}
	if s != nil {
		return s.QueryContext(ctx, args)
	}
	return c.sqliteDriverConn.QueryContext(ctx, query, args)
}

// Close also closes the statements, which would otherwise keep SQLite's file open.
func (c *sqliteConn) Close() error {
	for _, s := range c.prepared {
		_ = s.Close() // an error does not matter: every use was completed
	}
	return c.sqliteDriverConn.Close()
}
