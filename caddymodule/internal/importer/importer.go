// Package importer reads the users that an older system knows from a CSV file
// and hands them to a store, in batches. It knows nothing of SQL or of Caddy.
package importer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// Row is a line of the file: an openid, and whose it is.
type Row struct {
	AppID, OpenID string
	UnionID       string     // empty: not known
	Phone         user.Phone // zero: not known; then UserID names somebody who is in the store
	UserID        string     // empty: that of the phone number's owner, or a new one; needed where users live elsewhere
}

// Outcome is what became of a row.
type Outcome struct {
	// Refused says why nothing was written for it; nil, if it was not refused.
	Refused error
	// NewUser and Bound say what was written; neither: it was known already.
	NewUser, Bound bool
}

// The store keeps what it knows. These are the reasons to refuse a row for it.
var (
	ErrPhoneTaken   = errors.New("the phone number belongs to another user in the store")
	ErrOtherPhone   = errors.New("the user has another phone number in the store")
	ErrNoPhone      = errors.New("the user is not in the store yet, so a phone number is needed")
	ErrErased       = errors.New("the user was erased")
	ErrNoUserID     = errors.New("the users live in a directory of your own, so their id there is needed")
	ErrOpenIDTaken  = errors.New("the openid belongs to another user in the store")
	ErrUnionIDTaken = errors.New("the unionid belongs to another user in the store")
	ErrOtherOpenID  = errors.New("the user has another openid of this app in the store")
)

// Store takes the rows. A batch is written as a whole or not at all; an error
// that is none of a row's is that of the batch.
type Store interface {
	Import(ctx context.Context, rows []Row, rule user.NewOpenID) ([]Outcome, error)
}

// Import is one run over a file.
type Import struct {
	Store Store
	// Apps are the mini programs that are served; rows of others are refused.
	Apps []string
	// Rule says whether a user may have several openids in one app: only with
	// user.Keep.
	Rule user.NewOpenID
	// Refused is told of every line that was not taken, in their order.
	Refused func(line int, phone user.Phone, reason error)
	// Progress is told after each batch.
	Progress func(Totals)
}

// Totals count lines, the header and empty ones aside.
type Totals struct {
	Line     int   // the last one that was dealt with
	Bytes    int64 // read from the file
	NewUsers int
	Bound    int // openids that were not known before, those of new users included
	Known    int
	Refused  int
}

// batch bounds how much is written at once, so that logins wait only shortly
// for an import.
const batch = 500

// maxLine bounds a line, in bytes.
const maxLine = 4 << 10

// Run reads to the end of the file, or until the store fails or ctx ends. What
// is before Totals.Line is done then, and running it all again does no harm.
func (i Import) Run(ctx context.Context, file io.Reader) (Totals, error) {
	var sum Totals
	lines := &lineReader{in: bufio.NewReaderSize(file, maxLine)}
	parse := newParser(i.Apps)
	for {
		var rows []Row
		var numbers []int
		var bad []refusal
		last, end := sum.Line, false
		for len(rows) < batch {
			text, err := lines.next()
			if err == io.EOF {
				end = true
				break
			}
			if err != nil && !errors.Is(err, errLongLine) {
				return sum, fmt.Errorf("line %d: %w", lines.number, err)
			}
			last = lines.number
			var row Row
			if err == nil {
				var empty bool
				row, empty, err = parse.line(text, lines.number == 1)
				if errors.Is(err, errHeader) {
					return sum, err
				}
				if empty {
					continue
				}
			}
			if err != nil {
				bad = append(bad, refusal{last, row.Phone, err})
				continue
			}
			rows, numbers = append(rows, row), append(numbers, last)
		}
		if err := ctx.Err(); err != nil {
			return sum, err
		}
		if len(rows) > 0 {
			outcomes, err := i.Store.Import(ctx, rows, i.Rule)
			if err != nil {
				return sum, err
			}
			for n, o := range outcomes {
				if o.Refused != nil {
					bad = append(bad, refusal{numbers[n], rows[n].Phone, o.Refused})
				}
				sum.count(o)
			}
		}
		sum.Refused += len(bad)
		sum.Line, sum.Bytes = last, lines.bytes
		i.report(bad)
		if i.Progress != nil {
			i.Progress(sum)
		}
		if end {
			return sum, nil
		}
	}
}

func (t *Totals) count(o Outcome) {
	switch {
	case o.Refused != nil:
	case o.NewUser || o.Bound:
		if o.NewUser {
			t.NewUsers++
		}
		if o.Bound {
			t.Bound++
		}
	default:
		t.Known++
	}
}
