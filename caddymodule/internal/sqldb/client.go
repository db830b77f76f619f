package sqldb

import (
	"context"
	"errors"
)

// A Client runs operations on a database that may not be open yet. Each operation is bounded in
// time, traced and reported to [DB.Observe]. The parameter doing of the methods, such as "reading a
// session", begins the text of their errors. All fields must be set.
//
// A transaction is run again if another one was in its way, if the connection was lost, or if it
// was shared with other writes and has failed.
type Client struct {
	DB *DB
	// Use returns the connections. It opens the database if it is not open.
	Use func(context.Context) (*Pools, error)
	// Wrote is called with the error of each write, or nil. It may return another error instead.
	Wrote func(context.Context, error) error
	// Proves reports whether the success of a write with this context proves that the database can
	// be written.
	Proves func(context.Context) bool
}

// Read runs ask, which only reads. It may be run again from its start.
func (c *Client) Read(ctx context.Context, doing string, ask func(*Tx) error) error {
	return c.read(ctx, doing, false, ask)
}

// ReadLate is like Read, for queries whose results may lag behind. They run without a transaction,
// so a proxy may send them to a database replica.
func (c *Client) ReadLate(ctx context.Context, doing string, ask func(*Tx) error) error {
	return c.read(ctx, doing, true, ask)
}

func (c *Client) read(ctx context.Context, doing string, lags bool, ask func(*Tx) error) (err error) {
	ctx, u := c.DB.begin(ctx, doing)
	defer func() { u.end(false, err) }()
	p, err := c.Use(ctx)
	if err != nil {
		return err
	}
	return c.DB.Wrap(ctx, doing+" in", c.DB.ask(ctx, p, u, lags, ask))
}

// ReadLong is like Read, for queries that may take long: it has no time limit of its own, and is
// not reported.
func (c *Client) ReadLong(ctx context.Context, doing string, ask func(*Tx) error) error {
	p, err := c.Use(ctx)
	if err != nil {
		return err
	}
	return c.DB.Wrap(ctx, doing+" in", c.DB.ask(ctx, p, new(underway), false, ask))
}

// ask runs a read, again if needed. lags is as in Tx.
func (db *DB) ask(ctx context.Context, p *Pools, u *underway, lags bool, ask func(*Tx) error) error {
	if p.queue != nil {
		return ask(db.Asking(ctx, p.Read))
	}
	return db.tries(ctx, p.Read, Again, u.counted(func() error { return db.reading(ctx, p.Read, lags, ask) }))
}

// Durability states whether a write survives a power cut by itself (Durable), or only after a later
// durable write (Light). All writes survive the end of this process.
type Durability bool

const (
	Durable Durability = false
	Light   Durability = true
)

// Write runs change in one durable transaction, which happens completely or not at all. If another
// transaction was in its way, change is run again from its start. It may run on another goroutine
// than the caller's. If the connection breaks during the commit, the outcome is unknown, and the
// error is [ErrUnavailable].
func (c *Client) Write(ctx context.Context, doing string, change func(*Tx) error) error {
	return c.Change(ctx, doing, Once, Durable, change)
}

// Rewrite is like Write, for changes that have the same result if they are made twice. If the
// commit was not answered, the change is made again.
func (c *Client) Rewrite(ctx context.Context, doing string, change func(*Tx) error) error {
	return c.Change(ctx, doing, Again, Durable, change)
}

// Change is like Write or Rewrite, with a durability.
func (c *Client) Change(ctx context.Context, doing string, may Repeat, how Durability, change func(*Tx) error) error {
	return c.perform(ctx, doing, c.Proves(ctx), func(ctx context.Context, p *Pools, u *underway) error {
		if p.queue != nil {
			u.early = how == Light
			return p.queue.write(ctx, c.DB, &pendingWrite{change: change, guarded: Guarded(ctx), how: how})
		}
		return c.DB.tries(ctx, p.Write, may, u.counted(func() error { return c.DB.changing(ctx, p.Write, how, change) }))
	})
}

// perform runs a write and describes its error. proves says whether its success proves that the
// database can be written.
func (c *Client) perform(ctx context.Context, doing string, proves bool, write func(context.Context, *Pools, *underway) error) (err error) {
	ctx, u := c.DB.begin(ctx, doing)
	defer func() { u.end(proves, err) }()
	p, err := c.Use(ctx)
	if err != nil {
		return err
	}
	err = errPanicked // unless write returns
	return c.DB.Wrap(ctx, doing+" in", c.Wrote(ctx, write(ctx, p, u)))
}

// errPanicked is how a write that panics is reported.
var errPanicked = errors.New("the write panicked")

// Group makes a change that may be made twice. On a database server the change may share a
// transaction with others, see groupCommit.
func (c *Client) Group(ctx context.Context, doing string, how Durability, w *Grouped) error {
	if c.DB.Dialect.OneWriter { // the queue collects its writes
		return c.Change(ctx, doing, Again, how, func(t *Tx) error { return t.Together(w) })
	}
	return c.share(ctx, doing, c.Proves(ctx), how, w)
}

// GroupRead asks a question. On a database server it may share a transaction with others.
func (c *Client) GroupRead(ctx context.Context, doing string, question func() Statement) error {
	if c.DB.Dialect.OneWriter {
		return c.Read(ctx, doing, func(t *Tx) error { return t.Questions(question()) })
	}
	return c.share(Unguarded(ctx), doing, false, Durable, &Grouped{Statements: func(*Tx) (_, _ []Statement, _ error) {
		return []Statement{question()}, nil, nil
	}})
}

// share makes a write on a database server.
func (c *Client) share(ctx context.Context, doing string, proves bool, how Durability, w *Grouped) error {
	return c.perform(ctx, doing, proves, func(ctx context.Context, p *Pools, u *underway) error {
		u.runs++
		err := p.groups.of(groupKind{doing, how, Guarded(ctx)}, c.DB, p.Write).write(ctx, w)
		if errors.Is(err, ErrGroup) {
			err = c.DB.tries(ctx, p.Write, Again, u.counted(func() error {
				return c.DB.changing(ctx, p.Write, how, func(t *Tx) error { return t.Together(w) })
			}))
		}
		return err
	})
}

type unguarded struct{}

// Unguarded returns a context for writes that the guard lets in always.
func Unguarded(ctx context.Context) context.Context {
	return context.WithValue(ctx, unguarded{}, true)
}

// Guarded reports whether the guard applies to a write with this context.
func Guarded(ctx context.Context) bool { return ctx.Value(unguarded{}) == nil }
