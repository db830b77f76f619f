package sqldb

import (
	"fmt"
	"testing"
)

// Only one connection writes, and all writes wait for it in the queue. A connection for reading
// that writes would bypass the queue.
func TestReadersDoNotWrite(t *testing.T) {
	c := newSQLite(t)
	p := c.DB.Pools()
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "1", "busy_timeout": fmt.Sprint(busyTimeout.Milliseconds())} {
		var got string
		if err := p.Write.QueryRow("PRAGMA " + pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %s, %v; want %s", pragma, got, err, want)
		}
	}
	if _, err := p.Read.Exec(c.DB.SQL(`DELETE FROM {rows}`)); err == nil {
		t.Error("a reader wrote")
	}
}
