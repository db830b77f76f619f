package sqldb

import "context"

// Grouping collects the writes of one operation on a server. It is exported for tests of writes
// that share a transaction.
type Grouping struct{ g *groupCommit }

// Grouping returns the grouping of an operation that the guard applies to. The database must be
// open.
func (c *Client) Grouping(doing string, how Durability) Grouping {
	p := c.DB.Pools()
	return Grouping{p.groups.of(groupKind{doing, how, true}, c.DB, p.Write)}
}

// Send sends writes in one transaction.
type Send func(ctx context.Context, writes []*Grouped) error

// Intercept replaces how transactions are sent. None counts as slow from then on.
func (g Grouping) Intercept(around func(Send) Send) {
	g.g.soon, g.g.send = 0, around(g.g.send)
}

// State returns how many writes are waiting, and how many transactions are on their way.
func (g Grouping) State() (waiting, running int) {
	g.g.mu.Lock()
	defer g.g.mu.Unlock()
	return len(g.g.waiting), g.g.running
}
