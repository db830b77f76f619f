// Package cli holds what the operator's commands do, `caddy wx-auth …`: with an open store,
// and a writer for the output. It knows neither Caddy nor where the configuration is read
// from.
package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"golang.org/x/term"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/account"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/event"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/store"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/token"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// Store is a store of the configuration, with what the configuration says about it.
type Store struct {
	Name string
	*store.Store
	// Rings are the rings of generated keys, one for each algorithm.
	Rings []token.RingSettings
	// Static are the keys in the configuration.
	Static []*token.KeySet
	// Sites are the sites that use the store.
	Sites []Site
	// Apps are the appids that the configuration serves, in its order.
	Apps []string
	// NewOpenID is the rule of the first site.
	NewOpenID user.NewOpenID
	// Sessions are the longest times among the sites.
	Sessions session.Settings
	// Directory holds the users. It returns an error if it cannot be asked.
	Directory account.Directory
	// External means that users live in a directory outside of the store.
	External bool
}

// Site holds the demands of a site on tokens.
type Site struct {
	token.Policy
	// Static is the key in the configuration; nil: generated keys of Algorithm.
	Static    *token.KeySet
	Algorithm token.Algorithm
	// TestLogin identifies the site's test login, for [session.Keys.Marks]; empty: none.
	// TestUntil is when it ends.
	TestLogin string
	TestUntil time.Time
}

// accounts returns the operations on users. Events have no handlers outside of the
// running gateway.
func (o *Store) accounts() account.Accounts {
	return account.Accounts{
		Directory: o.Directory, Store: o.Store,
		Sessions: session.Sessions{Store: o.Store, Settings: o.Sessions, Revoked: session.NewRevoked()},
		Emit:     func(...event.Event) {},
	}
}

func (o *Store) lookup() account.Lookup {
	return account.Lookup{Directory: o.Directory, Store: o.Store, Elsewhere: o.External}
}

// Output takes the output of a command.
type Output struct {
	io.Writer
	// JSON is the form for scripts, instead of tables for people.
	JSON bool
	// FullPhone writes phone numbers in full. Otherwise they are masked.
	FullPhone bool
}

// json writes a value for scripts.
func (o Output) json(v any) error {
	enc := json.NewEncoder(o)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// table writes rows for people. Clients have written some of the cells, such as the user
// agents: nothing in them may control the terminal.
func (o Output) table(head string, rows [][]string) error {
	w := tabwriter.NewWriter(o, 0, 0, 2, ' ', 0)
	if head != "" {
		fmt.Fprintln(w, strings.ReplaceAll(head, " | ", "\t"))
	}
	for _, row := range rows {
		for i, cell := range row {
			row[i] = visible(cell)
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

// visible replaces what is empty or cannot be printed.
func visible(s string) string {
	return cmp.Or(strings.Map(func(c rune) rune {
		if c == '\t' || c != ' ' && !unicode.IsPrint(c) {
			return '?'
		}
		return c
	}, s), "-")
}

// phone formats a number for the output.
func (o Output) phone(p user.Phone) string {
	if p.IsZero() {
		return ""
	}
	if o.FullPhone {
		return p.E164()
	}
	return p.Masked()
}

// record masks the number in a user's record.
func (o Output) record(info map[string]any, p user.Phone) map[string]any {
	if !o.FullPhone && !p.IsZero() {
		info["phoneNumber"] = p.Masked()
		delete(info, "purePhoneNumber")
	}
	return info
}

// moment formats a time for people.
func moment(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// interrupted adds what is done so far to the error of an interrupted command.
func interrupted(err error, done string) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("interrupted; %s: run it again, it goes on from there", done)
	}
	return err
}

// bar is a progress line on a terminal, rewritten in place. Without a terminal it prints
// nothing.
type bar struct {
	out   *os.File // nil: none
	shown time.Time
}

func newBar(out *os.File) *bar {
	if !term.IsTerminal(int(out.Fd())) {
		out = nil
	}
	return &bar{out: out}
}

const eraseLine = "\r\x1b[2K"

// show writes the line, at most ten times a second.
func (b *bar) show(format string, args ...any) {
	if b.out == nil || time.Since(b.shown) < 100*time.Millisecond {
		return
	}
	b.shown = time.Now()
	fmt.Fprintf(b.out, eraseLine+format, args...)
}

// clear erases the line.
func (b *bar) clear() {
	if b.out != nil {
		fmt.Fprint(b.out, eraseLine)
	}
}

// blocks draws the share that part has of whole.
func blocks(part, whole int64) string {
	const width = 30
	full := width
	if whole > 0 {
		full = int(min(part, whole) * width / whole)
	}
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", width-full) + "]"
}
