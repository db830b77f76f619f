package sqldb

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"
)

// postgresSettings are set on every connection, whatever the encoding of the database and the
// settings of the role. Text is UTF-8, and a backslash in a literal is an ordinary character. The
// driver, and our parser of configured queries, rely on both. PgBouncer tracks these two settings
// for each client.
var postgresSettings = map[string]string{
	"client_encoding":             "UTF8",
	"standard_conforming_strings": "on",
}

// Fit replaces characters that the database's encoding may lack, in a text from a client. Otherwise
// a header with such a character would make the client's login fail.
func (db *DB) Fit(text string) string {
	if !db.narrow.Load() {
		return text
	}
	return strings.Map(func(r rune) rune {
		if r >= utf8.RuneSelf {
			return '?'
		}
		return r
	}, text)
}

// startupRefused reports whether a pooler has refused the settings when the connection started.
func startupRefused(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && (e.Code == "08P01" || e.Code == "0A000") && strings.Contains(e.Message, "startup parameter")
}

// validSettings refuses a connection that does not have the postgresSettings.
func validSettings(_ context.Context, conn *pgconn.PgConn) error {
	for name, want := range postgresSettings {
		if got := conn.ParameterStatus(name); !strings.EqualFold(got, want) {
			return settingError{name, got, want}
		}
	}
	return nil
}

// settingError reports a setting that the pooler does not accept, and for which the database has a
// value other than ours.
type settingError struct{ name, got, want string }

func (e settingError) Error() string {
	return fmt.Sprintf("the connection has %s = %q, and the pooler refuses to set it: run ALTER ROLE … SET %s = '%s' for the role that connects", e.name, e.got, e.name, e.want)
}

// allValid combines two checks. a may be nil.
func allValid(a, b pgconn.ValidateConnectFunc) pgconn.ValidateConnectFunc {
	if a == nil {
		return b
	}
	return func(ctx context.Context, conn *pgconn.PgConn) error {
		if err := a(ctx, conn); err != nil {
			return err
		}
		return b(ctx, conn)
	}
}
