package sqldb

import (
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"

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
		{errors.New("could not extend file: No space left on device"), "free space"},
		{syscall.ECONNREFUSED, "runs and can be reached"},
	} {
		var r interface{ Remedy() string }
		if err := db.Wrap(t.Context(), "asking", c.err); !errors.Is(err, ErrUnavailable) || !errors.As(err, &r) || !strings.Contains(r.Remedy(), c.want) {
			t.Errorf("%v: the remedy is %v, want %q", c.err, r, c.want)
		}
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
