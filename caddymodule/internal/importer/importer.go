// Package importer reads the users of an older system from a CSV file and passes them
// to a store in batches. It knows nothing of SQL or of Caddy.
package importer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// Row is one line of the file: an openid and its user.
type Row struct {
	AppID, OpenID string
	UnionID       string     // empty: unknown
	Phone         user.Phone // zero: unknown; UserID must name a user in the store then
	UserID        string     // empty: the id of the phone number's owner, or a new one; required if the users are in an external directory
}

// Outcome is the result of importing a row.
type Outcome struct {
	// Refused is the reason if the row was refused and nothing was written for it.
	Refused error
	// NewUser and Bound report a new user and a new binding. If both are false, the row
	// was known already.
	NewUser, Bound bool
}

// The reasons for which the store refuses a row. Existing data is never overwritten.
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

// Store accepts the rows. A batch is written completely or not at all. An error that is
// not a row's applies to the whole batch.
type Store interface {
	Import(ctx context.Context, rows []Row, rule user.NewOpenID) ([]Outcome, error)
}

// Import is one run over a file.
type Import struct {
	Store Store
	// Apps are the configured mini programs. Rows of other apps are refused.
	Apps []string
	// Rule decides whether a user may have several openids in one app, which only
	// user.Keep allows.
	Rule user.NewOpenID
	// Refused is called for every refused line, in the order of the lines.
	Refused func(line int, phone user.Phone, reason error)
	// Progress is called after each batch.
	Progress func(Totals)
}

// Totals count lines, without the header and empty lines.
type Totals struct {
	Line     int   // the last processed line
	Bytes    int64 // read from the file
	NewUsers int
	Bound    int // openids that were unknown before, including those of new users
	Known    int
	Refused  int
}

// batch bounds the number of rows in one transaction, so that logins wait only briefly
// for an import.
const batch = 500

// maxLine bounds the length of a line, in bytes.
const maxLine = 4 << 10

// Run reads to the end of the file, or until the store fails or ctx ends. All lines up
// to Totals.Line have been processed then. Importing the whole file again does no harm.
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
