package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"slices"
	"strconv"
	"strings"
)

// These columns hold numbers or bytes. All other columns hold text.
var (
	numberColumns = []string{
		"disabled", "created_at", "phone_at", "bound_at", "state", "auth_at", "state_at", "refreshed_at", "counter", "advanced_at", "expires_at",
		"ended_at", "tokens_until", "tokens_counter", "seq", "until_at", "recorded_at", "generation", "signs_from", "retired_at", "spent",
		"lease_until", "seen_at", "fetched_at", "erased_at", "left_at",
	}
	byteColumns = []string{"phone", "private_key", "token", "value", "step"}
)

// cells are the values of a row, in the order of the columns: *int64, *[]byte or *string.
type cells []any

func newCells(columns []string) cells {
	row := make(cells, len(columns))
	for i, c := range columns {
		switch {
		case slices.Contains(numberColumns, c):
			row[i] = new(int64)
		case slices.Contains(byteColumns, c):
			row[i] = new([]byte)
		default:
			row[i] = new(string)
		}
	}
	return row
}

// text returns a value in the form that filling stores.
func (c cells) text(i int) []byte {
	switch v := c[i].(type) {
	case *int64:
		return strconv.AppendInt(nil, *v, 10)
	case *[]byte:
		return *v
	default:
		return []byte(*v.(*string))
	}
}

// param returns a value as a parameter of a statement.
func (c cells) param(i int) any {
	switch v := c[i].(type) {
	case *int64:
		return *v
	case *[]byte:
		if *v == nil {
			return nil // NULL
		}
		return *v
	default:
		return *v.(*string)
	}
}

func columnsOf(table string) []string {
	list := strings.Split(columns[table], ",")
	for i := range list {
		list[i] = strings.TrimSpace(list[i])
	}
	return list
}

// copyBatch copies the next rows, and returns the state after them.
func (m Move) copyBatch(ctx context.Context, state filling) (filling, error) {
	table := movedTables[state.Table]
	names := columnsOf(table.name)
	at := slices.Index(names, table.by)
	rows, whole, err := m.readBatch(ctx, table, names, at, state.After)
	if err != nil {
		return state, err
	}
	next := state
	next.Rows += int64(len(rows))
	if whole {
		next.Table, next.After = state.Table+1, nil
	} else {
		next.After = rows[len(rows)-1].text(at)
	}
	if err := m.reseal(table, names, rows); err != nil {
		return state, err
	}
	var numbers []sqldb.Statement
	if table.name == "users" {
		if numbers, err = m.numbers(ctx, names, rows); err != nil {
			return state, err
		}
	}
	err = m.To.sql.Rewrite(ctx, "copying rows", func(t *sqldb.Tx) error {
		now, err := readFilling(t)
		switch {
		case err != nil:
			return err
		case now.equal(next):
			return nil // the commit had succeeded, and its answer was lost
		case !now.equal(state):
			return sqldb.Permanent(errors.New("another move into this store is running"))
		}
		for _, st := range append(numbers, insertRows(table, names, rows)...) {
			if _, err := t.Run(st); err != nil {
				return err
			}
		}
		return writeFilling(t, next)
	})
	return next, err
}

func (f filling) equal(other filling) bool {
	return f.ID == other.ID && f.Table == other.Table && f.Rows == other.Rows && bytes.Equal(f.After, other.After)
}

// readBatch reads the rows that follow after, a value of the column table.by. It never splits rows
// with the same value. whole is true if these are the last rows.
func (m Move) readBatch(ctx context.Context, table movedTable, names []string, at int, after []byte) (rows []cells, whole bool, err error) {
	query, args := `SELECT `+strings.Join(names, ", ")+` FROM {`+table.name+`}`, []any(nil)
	if after != nil {
		var value any = string(after)
		switch {
		case slices.Contains(byteColumns, table.by):
			value = after
		case slices.Contains(numberColumns, table.by):
			if value, err = strconv.ParseInt(string(after), 10, 64); err != nil {
				return nil, false, err
			}
		}
		query, args = query+` WHERE `+table.by+` > ?`, []any{value}
	}
	for limit := moveBatch; ; limit *= 8 {
		err := m.From.sql.Read(ctx, "copying", func(t *sqldb.Tx) error {
			rows = nil
			return t.Each(func(r sqldb.Row) error {
				row := newCells(names)
				err := r.Scan(row...)
				rows = append(rows, row)
				return err
			}, query+` ORDER BY `+table.by+` LIMIT ?`, append(slices.Clone(args), limit)...)
		})
		if err != nil || len(rows) < limit {
			return rows, true, err
		}
		// More rows of the last value may follow.
		last, n := rows[len(rows)-1].text(at), len(rows)-1
		for n > 0 && bytes.Equal(rows[n-1].text(at), last) {
			n--
		}
		if n > 0 {
			return rows[:n], false, nil
		}
	}
}

// reseal opens values with the old store's keys, and seals them with the new store's keys.
func (m Move) reseal(table movedTable, names []string, rows []cells) error {
	i := slices.IndexFunc(sealedColumns, func(c sealedColumn) bool { return c.table == table.name })
	if i < 0 {
		return nil
	}
	c := sealedColumns[i]
	from, to := m.From.keys.Load(), m.To.keys.Load()
	value := func(row cells, name string) string {
		if name == "" {
			return ""
		}
		return string(row.text(slices.Index(names, name)))
	}
	for _, row := range rows {
		sealed := row[slices.Index(names, c.column)].(*[]byte)
		if len(*sealed) == 0 {
			continue
		}
		at := c.place(value(row, c.within), value(row, c.key), value(row, c.more))
		plain, err := from.open(at, *sealed)
		if err != nil {
			return fmt.Errorf("%w: run `caddy wx-auth rekey` on the old store first, with the key that sealed it", err)
		}
		*sealed = to.seal(at, plain)
	}
	return nil
}

// numbers returns the statements that enter the users' numbers into the index of the new store. A
// number that is not in the old index gets no entry.
func (m Move) numbers(ctx context.Context, names []string, rows []cells) ([]sqldb.Statement, error) {
	if len(rows) == 0 {
		return nil, nil
	}
	id, phone := slices.Index(names, "id"), slices.Index(names, "phone")
	owns := make(map[string]bool)
	var args []any
	for _, row := range rows {
		args = append(args, row.param(id))
	}
	err := m.From.sql.Read(ctx, "reading the index of phone numbers", func(t *sqldb.Tx) error {
		clear(owns)
		ids, err := t.Strings(`SELECT user_id FROM {user_phones} WHERE user_id IN (?`+strings.Repeat(", ?", len(args)-1)+`)`, args...)
		for _, id := range ids {
			owns[id] = true
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	keys := m.To.keys.Load()
	var entries []cells
	for _, row := range rows {
		if !owns[string(row.text(id))] {
			continue
		}
		number, err := m.To.openPhone(phonePlace(string(row.text(id))), *row[phone].(*[]byte))
		if err != nil {
			return nil, err
		}
		for i, hash := range keys.phoneHashes(number.E164()) {
			keyID := keys.keys[i].id[:]
			entries = append(entries, cells{&hash, &keyID, row[id]})
		}
	}
	return insertRows(movedTable{name: "user_phones"}, columnsOf("user_phones"), entries), nil
}

// insertBatch bounds the rows of one INSERT, because SQLite accepts at most 32766 parameters.
const insertBatch = 250

// insertRows returns the statements that insert rows.
func insertRows(table movedTable, names []string, rows []cells) (list []sqldb.Statement) {
	var kept []int
	for i, name := range names {
		if name != table.left {
			kept = append(kept, i)
		}
	}
	into := make([]string, len(kept))
	for i, k := range kept {
		into[i] = names[k]
	}
	values := `(?` + strings.Repeat(", ?", len(kept)-1) + `)`
	for part := range slices.Chunk(rows, insertBatch) {
		var args []any
		for _, row := range part {
			for _, k := range kept {
				args = append(args, row.param(k))
			}
		}
		list = append(list, sqldb.Say(`INSERT INTO {`+table.name+`} (`+strings.Join(into, ", ")+`) VALUES `+values+strings.Repeat(", "+values, len(part)-1), args...))
	}
	return list
}
