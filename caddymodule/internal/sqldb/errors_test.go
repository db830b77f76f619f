package sqldb

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strings"
	"syscall"
	"testing"

	mysqlclient "github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5/pgconn"
)

// An on-call person who reads the log must learn what to do, and not only what the driver reported.
func TestUnavailableHasARemedy(t *testing.T) {
	db, err := New("postgres://wx@db/shop", Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		err  error
		want string
	}{
		{&net.DNSError{Err: "no such host", Name: "db"}, "DNS"},
		{&net.OpError{Op: "dial", Err: syscall.EMFILE}, "open files"},
		{errors.New("FATAL: sorry, too many clients already"), "max_connections"},
		{&mysqlclient.MySQLError{Number: 1226, Message: "User 'wx' has exceeded the 'max_user_connections' resource (current value: 2)"}, "max_user_connections"},
		{&pgconn.PgError{Code: "08P01", Message: "database \"shop\" is disabled"}, "ENABLE"},
		{errors.New("could not extend file: No space left on device"), "free space"},
		{syscall.ECONNREFUSED, "runs and can be reached"},
	} {
		var r interface{ Remedy() string }
		if err := db.Wrap(t.Context(), "asking", c.err); !errors.Is(err, ErrUnavailable) || !errors.As(err, &r) || !strings.Contains(r.Remedy(), c.want) {
			t.Errorf("%v: the remedy is %v, want %q", c.err, r, c.want)
		}
	}
}

// A database does not open, and only the operator can fix it. The doctor writes these remedies.
func TestOpenErrorsHaveRemedies(t *testing.T) {
	for _, c := range []struct {
		address string
		err     error
		want    string
	}{
		{"postgres://wx@db/shop", errors.New("tls error: server refused TLS connection"), "sslmode=disable"},
		{"mysql://wx@db/shop", mysqlclient.ErrNoTLS, "tls=false"},
		{"postgres://wx@db/shop", x509.UnknownAuthorityError{}, "root certificates"},
		{"postgres://wx@db/shop", &pgconn.PgError{Code: "3D000"}, "create the database"},
		{"postgres://wx@db/shop", &pgconn.PgError{Code: "42501"}, "all rights"},
		{"postgres://wx@db/shop", &pgconn.PgError{Code: "28P01"}, "correct the user and the password"},
		{"mysql://wx@db/shop", &mysqlclient.MySQLError{Number: 1044}, "all rights"},
		{"sqlite:/wx.db", fs.ErrPermission, "write to the file"},
		{"sqlite:/wx.db", errors.New("is a directory"), "the path in `store`"},
		{"postgres://wx@db/shop", io.EOF, ""},
	} {
		db, err := New(c.address, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got := db.Remedy(fmt.Errorf("opening: %w", c.err)); !strings.Contains(got, c.want) || (got == "") != (c.want == "") {
			t.Errorf("%v: the remedy is %q, want %q", c.err, got, c.want)
		}
	}
}

// The class of an error decides whether a caller tries again, and what the operator reads.
func TestErrorsAreClassified(t *testing.T) {
	answer, sealed, explained := errors.New("no such row"), errors.New("sealed"), errors.New("give the key")
	db, err := New("postgres://wx:hunter2@db/shop", Options{
		Answer: func(err error) bool { return errors.Is(err, answer) },
		Explain: func(err error) error {
			if errors.Is(err, sealed) {
				return fmt.Errorf("%w: %w", explained, err)
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		ctx       context.Context
		err       error
		is        error
		temporary bool
		text      string
	}{
		{t.Context(), answer, answer, false, "no such row"},
		{over, answer, answer, false, "no such row"},
		{t.Context(), sealed, explained, false, "asking the store: postgres wx@db/shop: give the key: sealed"},
		{t.Context(), Permanent(io.EOF), io.EOF, false, "asking the store: postgres wx@db/shop: EOF"},
		{t.Context(), errors.New("with hunter2"), ErrUnavailable, true, "with *****"}, // as the database is not open
		{t.Context(), context.DeadlineExceeded, ErrUnavailable, true, "deadline"},
		{over, io.EOF, context.Canceled, false, "canceled"},
	} {
		got := db.Wrap(c.ctx, "asking", c.err)
		if !errors.Is(got, c.is) || errors.Is(got, ErrUnavailable) != c.temporary || !strings.Contains(got.Error(), c.text) {
			t.Errorf("%v became %v", c.err, got)
		}
	}
	if db.Wrap(t.Context(), "asking", nil) != nil {
		t.Error("no error became one")
	}
}

// Each transaction that writes meets the guard, and reads do not.
func TestGuardKeepsWritesOut(t *testing.T) {
	c := newSQLite(t)
	shut := errors.New("shut")
	asked := 0
	c.DB.opts.Guard.Check = func(*Tx) error { asked++; return shut }
	if err := c.insert(t.Context(), Durable, "refused"); !errors.Is(err, shut) {
		t.Errorf("a write: %v", err)
	}
	if err := c.insert(Unguarded(t.Context()), Durable, "let in"); err != nil {
		t.Errorf("an unguarded write: %v", err)
	}
	if n := c.rows(t); n != 1 || asked != 1 {
		t.Errorf("%d rows, the guard was asked %d times", n, asked)
	}
}

// A server without TLS gives these answers while it starts, and when TLS is required.
func TestPostgresThatRefusesTLS(t *testing.T) {
	refused := errors.New("tls error: server refused TLS connection")
	if !postgresRefused(refused) {
		t.Error("TLS is required and refused")
	}
	for _, second := range []error{io.ErrUnexpectedEOF, &net.OpError{Op: "read", Err: syscall.ECONNRESET}, &pgconn.PgError{Code: "57P03"}} {
		if err := errors.Join(refused, second); postgresRefused(err) || !postgresTemporary(err) {
			t.Errorf("%v is treated as permanent", err)
		}
	}
}
