// Package cli implements the operator's commands, `caddy wx-auth …`. It gets an open store and a
// writer for the output. It does not know Caddy, nor how the configuration is read.
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

// Store is a store of the configuration, with the settings that apply to it.
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
	// Sessions has the longest of each time among the sites.
	Sessions session.Settings
	// Directory is the directory of users. Its methods return an error if the directory cannot be
	// reached.
	Directory account.Directory
	// External means that the users are in a directory outside of the store.
	External bool
}

// Site holds what a site requires of tokens.
type Site struct {
	token.Policy
	// Static is the signing key in the configuration. If it is nil, generated keys of Algorithm
	// sign.
	Static    *token.KeySet
	Algorithm token.Algorithm
	// TestLogin identifies the site's test login, see [session.Keys.Marks]. It is empty if there is
	// none. TestUntil is the time at which it ends.
	TestLogin string
	TestUntil time.Time
}

// accounts returns the operations on users. It drops their events, because only the running gateway
// has handlers for them.
func (o *Store) accounts() account.Accounts {
	return account.Accounts{
		Directory: o.Directory, Store: o.Store,
		Sessions: session.Sessions{Store: o.Store, Settings: o.Sessions, Revoked: session.NewRevoked()},
		Emit:     func(...event.Event) {},
	}
}

func (o *Store) lookup() account.Lookup {
	return account.Lookup{Directory: o.Directory, Store: o.Store, External: o.External}
}

// Output receives the output of a command.
type Output struct {
	io.Writer
	// JSON selects JSON, for scripts, instead of tables, for people.
	JSON bool
	// FullPhone writes phone numbers in full. Otherwise they are masked.
	FullPhone bool
}

// json writes a value as JSON.
func (o Output) json(v any) error {
	enc := json.NewEncoder(o)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// table writes rows as a table. Some cells were written by clients, such as the user agents. So no
// character in them may control the terminal.
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

// visible replaces characters that cannot be printed with "?", and an empty text with "-".
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

// moment formats a time for a table.
func moment(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// interrupted returns the error of a command. If the user has interrupted the command, the error
// says what is done so far.
func interrupted(err error, done string) error {
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("interrupted; %s: run the command again, and it continues from there", done)
	}
	return err
}

// bar is a progress line on a terminal, rewritten in place. Without a terminal it prints
// nothing.
type bar struct {
	out   *os.File // nil: there is no terminal
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

// clear erases the progress line.
func (b *bar) clear() {
	if b.out != nil {
		fmt.Fprint(b.out, eraseLine)
	}
}

// blocks draws part of whole as a progress bar.
func blocks(part, whole int64) string {
	const width = 30
	full := width
	if whole > 0 {
		full = int(min(part, whole) * width / whole)
	}
	return "[" + strings.Repeat("#", full) + strings.Repeat(".", width-full) + "]"
}
