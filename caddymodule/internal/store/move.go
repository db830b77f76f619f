package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/clock"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
)

// Move moves everything from one store to another: users, phone numbers, bindings, sessions,
// revocations, signing keys, tombstones, and the step results of logins under way. Users who are
// logged in stay logged in.
type Move struct {
	From, To *Store
	// Sessions is the maximum lifetime of sessions. If the new store has another encryption key, it
	// accepts the refresh tokens made with the former key for so long.
	Sessions time.Duration
	// Force begins the move even if running replicas use the new store, or have an earlier version,
	// which writes to a closed store.
	Force bool
	// Progress is called repeatedly with the number of rows copied so far, and the number of all
	// rows.
	Progress func(table string, done, all int64)
}

// MovedTable is a table that was moved.
type MovedTable struct {
	Name string
	Rows int64
}

// Filler returns a store for a move to fill. Opening it creates the tables.
func (db *DB) Filler(keys *Keys) *Store {
	s := db.With(keys)
	s.fills = true
	return s
}

// movedTable describes how a table is copied.
type movedTable struct {
	name string
	// by is the column in whose order the rows are read. Several rows may have the same value.
	by string
	// left is a column that is left out, because the new database fills it itself.
	left string
}

// movedTables lists the tables in the order in which they are copied. The tables to which logins
// under way still write come last.
var movedTables = []movedTable{
	{name: "users", by: "id"}, {name: "bindings", by: "user_id"}, {name: "former_openids", by: "user_id"}, {name: "barred_users", by: "user_id"},
	{name: "sessions", by: "id"}, {name: "revocations", by: "seq", left: "seq"}, {name: "signing_keys", by: "id"},
	{name: "access_tokens", by: "appid"}, {name: claimedSteps, by: "step"}, {name: "kept_steps", by: "step"},
}

const claimedSteps = "claimed_steps"

// filling is the state of a move. It is stored in meta of the new store, in the transaction that
// copies rows. So an interrupted move continues exactly where it was.
type filling struct {
	ID    string `json:"id"`    // see Moved
	Table int    `json:"table"` // index in movedTables
	After []byte `json:"after"` // the value of the column `by` up to which rows are copied
	Rows  int64  `json:"rows"`  // copied in all tables
	// Filled is set once all rows are copied and counted.
	Filled bool `json:"filled"`
}

// moveBatch is the number of rows that one transaction copies.
const moveBatch = 500

// countTime bounds the counting of a table.
const countTime = 10 * time.Minute

// Run closes the old store and copies it. If it is interrupted, the next call continues. It returns
// the counts of the new store.
func (m Move) Run(ctx context.Context) ([]MovedTable, error) {
	for _, s := range []*Store{m.From, m.To} {
		if err := s.Open(ctx); err != nil {
			return nil, err
		}
	}
	state, err := m.begin(ctx)
	if err != nil {
		return nil, err
	}
	if state.Filled { // an earlier call has filled the store, but not recorded that in the old one
		copied, _, err := m.counts(ctx, m.To)
		return copied, errors.Join(err, m.finish(ctx, state.ID))
	}
	counts, all, err := m.counts(ctx, m.From)
	if err != nil {
		return nil, err
	}
	for state.Table < len(movedTables) {
		if m.Progress != nil {
			m.Progress(movedTables[state.Table].name, state.Rows, all)
		}
		if movedTables[state.Table].name == claimedSteps && state.After == nil {
			if err := m.awaitLogins(ctx); err != nil {
				return nil, err
			}
		}
		if state, err = m.copyBatch(ctx, state); err != nil {
			return nil, err
		}
	}
	if err := m.copyMeta(ctx); err != nil {
		return nil, err
	}
	copied, _, err := m.counts(ctx, m.To)
	if err != nil {
		return nil, err
	}
	for i, c := range counts {
		// Logins that were under way may have changed the number of these rows since they were
		// counted.
		if steps := c.Name == claimedSteps || c.Name == "kept_steps"; copied[i].Rows != c.Rows && !steps {
			return nil, fmt.Errorf("%s has %d rows in the old store and %d in the new one: empty the new one, and run the command again", c.Name, c.Rows, copied[i].Rows)
		}
	}
	return copied, m.finish(ctx, state.ID)
}

// loginTime bounds the wait for logins that began before the old store was closed.
const loginTime = time.Minute

// awaitLogins waits for the logins that had asked WeChat before the store was closed. Otherwise the
// result of a phone code, which costs money, might be stored after the results were copied.
func (m Move) awaitLogins(ctx context.Context) error {
	for end := time.Now().Add(loginTime); time.Now().Before(end); {
		n, err := m.From.countRows(ctx, `SELECT COUNT(*) FROM {claimed_steps} WHERE lease_until > {now} AND owner <> '' AND step <> ?`, housekeepingStep[:])
		if err != nil || n == 0 {
			return err
		}
		if !clock.Sleep(ctx, 50*time.Millisecond) {
			return ctx.Err()
		}
	}
	return nil
}

// begin closes the old store and marks the new one. If a move was interrupted, it returns the state
// of that move.
func (m Move) begin(ctx context.Context) (state filling, err error) {
	to := m.To.db.String()
	old, err := m.From.MovedTo(ctx)
	if err != nil {
		return state, err
	}
	other, err := m.To.MovedTo(ctx)
	if err != nil {
		return state, err
	}
	if other != nil {
		return state, errors.New("the new store was itself moved to another one, and is closed")
	}
	one, err1 := m.From.Identity(ctx)
	two, err2 := m.To.Identity(ctx)
	switch {
	case errors.Join(err1, err2) != nil:
		return state, errors.Join(err1, err2)
	case one == two:
		return state, errors.New("both stores are the same database")
	case old != nil && old.Done && old.To == to:
		return state, fmt.Errorf("everything was moved to %s before: write that store into the configuration, and reload", to)
	case old != nil && old.To != to:
		return state, fmt.Errorf("the store is closed for a move to %s: continue that move, or open the store again with --undo", old.To)
	}
	if state, err = m.state(ctx); err != nil {
		return state, err
	}
	if old != nil && state.ID == old.ID {
		return state, nil // the interrupted move continues
	}
	if err := m.check(ctx, state.ID != "" && !state.Filled); err != nil {
		return state, err
	}
	if old == nil {
		old = &Moved{To: to, ID: rand.Text()}
		if err := m.From.closeFor(ctx, *old); err != nil {
			return state, err
		}
	}
	// Rows that an earlier move has copied are deleted: the old store was open again since.
	for _, table := range append([]movedTable{{name: "user_phones", by: "phone_hash"}}, movedTables...) {
		if err := m.To.empty(ctx, "{"+table.name+"}", table.by, func(int) {}); err != nil {
			return state, err
		}
	}
	state = filling{ID: old.ID}
	return state, m.To.sql.Rewrite(ctx, "preparing", func(t *sqldb.Tx) error { return writeFilling(t, state) })
}

func writeFilling(t *sqldb.Tx, state filling) error {
	text, err := json.Marshal(state)
	if err != nil {
		return err
	}
	return writeMeta(t, fillingName, string(text))
}

// state returns the state of the move that fills the new store, or the zero value.
func (m Move) state(ctx context.Context) (state filling, err error) {
	err = m.To.sql.Read(ctx, "reading the state of the move", func(t *sqldb.Tx) (err error) {
		state, err = readFilling(t)
		return err
	})
	return state, err
}

func readFilling(t *sqldb.Tx) (state filling, err error) {
	var text []byte
	err = t.Row(`SELECT value FROM {meta} WHERE name = ?`, fillingName).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return state, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &state)
	}
	return state, err
}

// check returns an error if the move must not begin, because it would lose data. began is set if
// the new store may contain rows of an earlier move.
func (m Move) check(ctx context.Context, began bool) error {
	if !began {
		for _, table := range []string{"users", "bindings", "sessions"} {
			var some int
			err := m.To.sql.Read(ctx, "looking for rows", func(t *sqldb.Tx) error {
				return t.Row(`SELECT COUNT(*) FROM (SELECT 1 FROM {` + table + `} LIMIT 1) AS counted`).Scan(&some)
			})
			if err != nil {
				return err
			}
			if some > 0 {
				return fmt.Errorf("the new store %s is not empty (%s): use an empty database, or another table prefix", m.To.db, table)
			}
		}
	}
	if m.Force {
		return nil
	}
	using, err := m.To.Replicas(ctx)
	if err != nil {
		return err
	}
	if len(using) > 0 {
		return fmt.Errorf("%d replicas already use the new store (%s, seen %s ago): stop them first, and wait two minutes, or use --force", len(using), using[0].Name, using[0].Seen.Round(time.Second))
	}
	running, err := m.From.Replicas(ctx)
	for _, r := range running {
		if !r.Closes {
			return errors.Join(err, fmt.Errorf("the replica %s, seen %s ago, has an earlier version, which would write to the old store during the move: upgrade all replicas first, or stop them and use --force", r.Name, r.Seen.Round(time.Second)))
		}
	}
	return err
}

// counts counts the rows of each table.
func (m Move) counts(ctx context.Context, s *Store) (list []MovedTable, all int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, countTime)
	defer cancel()
	for _, table := range movedTables {
		c := MovedTable{Name: table.name}
		if c.Rows, err = s.countRows(ctx, `SELECT COUNT(*) FROM {`+table.name+`}`); err != nil {
			return nil, 0, err
		}
		list, all = append(list, c), all+c.Rows
	}
	numbers := MovedTable{Name: "phone numbers"}
	numbers.Rows, err = s.countRows(ctx, `SELECT COUNT(DISTINCT user_id) FROM {user_phones}`)
	return append(list, numbers), all, err
}

// countRows runs a query that counts rows. It has no time limit of its own, because counting may
// take long.
func (s *Store) countRows(ctx context.Context, query string, args ...any) (n int64, err error) {
	err = s.sql.ReadLong(ctx, "counting the rows", func(t *sqldb.Tx) error { return t.Row(query, args...).Scan(&n) })
	return n, err
}

// copyMeta copies the rows of meta that name the directory and the apps, and those about keys.
func (m Move) copyMeta(ctx context.Context) error {
	from, to := m.From.keys.Load(), m.To.keys.Load()
	rows := make(map[string][]byte)
	err := m.From.sql.Read(ctx, "reading the names", func(t *sqldb.Tx) error {
		clear(rows)
		return t.Each(func(r sqldb.Row) error {
			var name string
			var value []byte
			err := r.Scan(&name, &value)
			rows[name] = value
			return err
		}, `SELECT name, value FROM {meta} WHERE name IN (?, ?) OR name LIKE ? OR name LIKE ? OR name LIKE ?`,
			directoryName, findName, wechatPrefix+"%", distrustedPrefix+"%", retainedPrefix+"%")
	})
	if err != nil {
		return err
	}
	for name, value := range rows {
		if strings.HasPrefix(name, retainedPrefix) {
			at := place{"meta", "value", name}
			text, err := from.open(at, value)
			if err != nil {
				return err
			}
			rows[name] = to.seal(at, text)
		}
	}
	until := m.From.db.opts.Now().Add(m.Sessions)
	for i, id := range from.IDs() {
		name := retainedPrefix + id
		if !slices.Contains(to.IDs(), id) {
			rows[name] = to.seal(place{"meta", "value", name}, from.keys[i].retained(until))
		}
	}
	return m.To.sql.Rewrite(ctx, "naming the directory", func(t *sqldb.Tx) error {
		for name, value := range rows {
			if err := writeMeta(t, name, string(value)); err != nil {
				return err
			}
		}
		return nil
	})
}

// finish opens the new store, and records in the old one that the move is complete.
func (m Move) finish(ctx context.Context, id string) error {
	err := m.To.sql.Rewrite(ctx, "opening", func(t *sqldb.Tx) error { return writeFilling(t, filling{ID: id, Filled: true}) })
	if err != nil {
		return err
	}
	return m.From.closeFor(ctx, Moved{To: m.To.db.String(), ID: id, Done: true})
}
