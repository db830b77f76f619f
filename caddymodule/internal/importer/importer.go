// Package importer reads the users of an older system from a CSV file and passes them
// to a store in batches. It knows nothing of SQL or of Caddy.
package importer

import (
	"bufio"
	"context"
	"errors"
	"io"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// Row is one line of the file: an openid and its user.
type Row struct {
	AppID, OpenID string
	// UnionID is empty if it is unknown.
	UnionID string
	// Phone is zero if it is unknown. Then UserID must be the id of a user in the store.
	Phone user.Phone
	// UserID may be empty if the users are not in an external directory. Then the row belongs to
	// the owner of the phone number, or to a new user.
	UserID string
}

// Outcome is the result of importing a row.
type Outcome struct {
	// Refused is the reason if the row was refused and nothing was written for it.
	Refused error
	// NewUser and Bound report a new user and a new binding. If both are false, the row
	// was known already.
	NewUser, Bound bool
	// Suspended reports that the binding is new, but allows no silent login until the next
	// phone login, because the openid may be that of the number's former owner.
	Suspended bool
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

// Store accepts the rows. A batch is written completely or not at all. Import returns an error if
// the batch was not written; the refusal of a single row is in its Outcome.
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

// Totals count lines. The header and empty lines are not counted.
type Totals struct {
	Line     int   // the last processed line
	Bytes    int64 // read from the file
	NewUsers int
	Bound    int // openids that were unknown before, including those of new users
	// Suspended are those of them that need a phone login first.
	Suspended int
	Known     int
	Refused   int
}

// batchSize bounds the number of rows in one transaction, so that logins wait only briefly
// for an import.
const batchSize = 500

// maxLine bounds the length of a line, in bytes.
const maxLine = 4 << 10

// Run reads to the end of the file, or until the store fails or ctx ends. All lines up
// to Totals.Line have been processed then. Importing the whole file again does no harm.
func (i Import) Run(ctx context.Context, file io.Reader) (Totals, error) {
	var sum Totals
	lines := &lineReader{in: bufio.NewReaderSize(file, maxLine)}
	parse := newParser(i.Apps)
	for {
		b, err := readBatch(lines, parse)
		if err != nil {
			return sum, err
		}
		if err := ctx.Err(); err != nil {
			return sum, err
		}
		if len(b.rows) > 0 {
			outcomes, err := i.Store.Import(ctx, b.rows, i.Rule)
			if err != nil {
				return sum, err
			}
			for n, o := range outcomes {
				if o.Refused != nil {
					b.refused = append(b.refused, refusal{b.numbers[n], b.rows[n].Phone, o.Refused})
				}
				sum.count(o)
			}
		}
		sum.Refused += len(b.refused)
		sum.Line, sum.Bytes = lines.number, lines.bytes
		i.report(b.refused)
		if i.Progress != nil {
			i.Progress(sum)
		}
		if b.last {
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
		if o.Suspended {
			t.Suspended++
		}
	default:
		t.Known++
	}
}
