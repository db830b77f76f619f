package sqldb

import (
	"bytes"
	"cmp"
	"math/bits"
	"slices"
	"strings"
)

// Together makes one or several writes in the transaction t, and commits it. Several writes take at
// most two turnarounds. A write among them that needs a further one, or whose statements have an
// order, is not made and gets ErrGroup.
//
// Statements are sorted by the rows that they lock. Otherwise two replicas that lock the same rows
// in different orders would wait for each other.
func (t *Tx) Together(all ...*Grouped) error {
	t.shared = len(all) > 1
	var questions, writes []Statement
	for _, w := range all {
		if w.Questions != nil {
			questions = append(questions, w.Questions(t)...)
		}
	}
	if len(questions) > 0 {
		slices.SortStableFunc(questions, byLocks)
		if err := t.Send(false, questions...); err != nil {
			return err
		}
	}
	for _, w := range all {
		list, behind, err := w.Statements(t)
		if err == nil && t.shared && slices.ContainsFunc(list, Statement.ordered) {
			err = ErrGroup
		}
		w.err = err
		switch {
		case err == nil:
			writes, t.behind = append(writes, list...), append(t.behind, behind...)
		case !t.shared:
			return err
		}
	}
	if !slices.ContainsFunc(writes, Statement.ordered) {
		slices.SortStableFunc(writes, byLocks)
	}
	if len(t.behind) > 0 {
		t.behind = t.db.transacted(t.behind)
	}
	return t.Send(true, joinRows(writes)...)
}

// ordered reports whether a statement must stay where it is among the others of its write: it
// writes, and not just one row that is named.
func (st Statement) ordered() bool { return st.scan == nil && st.locks == nil && !st.last }

// place returns 0 for a statement that locks a row, 1 for one that does not, and 2 for a last one.
func (st Statement) place() int {
	switch {
	case st.last:
		return 2
	case st.locks == nil:
		return 1
	}
	return 0
}

// byLocks orders statements by query and by the row that they lock. Then come the statements that
// lock no row, and then the last ones.
func byLocks(a, b Statement) int {
	if a.place() != 0 || b.place() != 0 {
		return a.place() - b.place()
	}
	return cmp.Or(strings.Compare(a.query, b.query), bytes.Compare(a.locks, b.locks))
}

// Last lets a statement come after all others of a common transaction, because nothing that they do
// depends on it.
func Last(st Statement) Statement {
	st.last = true
	return st
}

// OnRow records which row a statement locks. rows is the part of the query that is repeated,
// separated by commas, when several such statements are joined into one.
func OnRow(key []byte, rows string, st Statement) Statement {
	st.locks, st.rows = key, rows
	return st
}

// joinRows joins adjacent statements that have the same query, and differ only in their row, into
// one statement. It joins 2, 4, 8 and so on, so that there are few different statements: PostgreSQL
// prepares each. It does not join statements for the same row, which PostgreSQL refuses.
func joinRows(list []Statement) (joined []Statement) {
	for len(list) > 0 {
		st, n := list[0], 1
		for st.rows != "" && n < len(list) && list[n].query == st.query && !bytes.Equal(list[n].locks, list[n-1].locks) {
			n++
		}
		n = 1 << (bits.Len(uint(n)) - 1)
		if n > 1 {
			st.query = strings.Replace(st.query, st.rows, st.rows+strings.Repeat(", "+st.rows, n-1), 1)
			st.args = slices.Clip(st.args)
			for _, other := range list[1:n] {
				st.args = append(st.args, other.args...)
			}
		}
		joined, list = append(joined, st), list[n:]
	}
	return joined
}
