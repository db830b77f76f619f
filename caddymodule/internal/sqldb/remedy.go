package sqldb

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"net"
	"strings"
	"syscall"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/remedy"
)

// advised is the error of a store that is unavailable or damaged, with advice for the operator.
type advised struct {
	error
	remedy string
}

func (e advised) Unwrap() error { return e.error }

// OfStore marks the error as one of the store. Package login looks for this method.
func (advised) OfStore() {}

// Remedy returns the advice. It is logged with the error.
func (e advised) Remedy() string { return e.remedy }

// Heading returns the heading for the log.
func (e advised) Heading() remedy.Heading {
	switch {
	case e.remedy == remedyReadOnly:
		return remedy.StoreReadOnly
	case errors.Is(e.error, ErrLost), errors.Is(e.error, ErrDamaged):
		return remedy.StoreLost
	}
	return remedy.StoreAway
}

// remedies maps texts, in lower case, to remedies. The texts occur in drivers' errors that have no
// type of their own.
var remedies = []struct{ text, remedy string }{
	{"disk is full", remedySpace}, {"no space left", remedySpace}, {"disk full", remedySpace}, {"could not extend file", remedySpace},
	{"too many connections", remedyConnections}, {"too many clients", remedyConnections}, {"remaining connection slots", remedyConnections},
	{"database is locked", "another process holds the SQLite file for a long time: look for one with `fuser`, such as a backup or a shell of sqlite3, and end it"},
}

const (
	remedySpace       = "free space on the disk of the database"
	remedyConnections = "raise max_connections of the database, or run fewer replicas: each uses up to 20 connections"
	remedyFiles       = "raise the limit of open files for Caddy (LimitNOFILE= in its systemd unit, or ulimit -n)"
	remedyLost        = "put the same file back; or stop Caddy, restore the file from a backup, and start Caddy"
	remedyLogLost     = "restart Caddy: when it stops, it writes the rest of its log into the file"
	remedyDamaged     = "stop Caddy, restore the file from a backup, and start Caddy; or point the store elsewhere"
	remedyReadOnly    = "let the user that runs Caddy write to the file and its directory, or connect to the server that takes writes (a replica or a server with read_only takes none)"
)

// remedyOf returns advice for the operator about a database that cannot be used.
func (db *DB) remedyOf(err error) string {
	var dns *net.DNSError
	switch {
	case errors.Is(err, errLogLost):
		return remedyLogLost
	case errors.Is(err, ErrLost):
		return remedyLost
	case errors.Is(err, ErrDamaged):
		return remedyDamaged
	}
	text := strings.ToLower(err.Error())
	for _, r := range remedies {
		if strings.Contains(text, r.text) {
			return r.remedy
		}
	}
	switch {
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), strings.Contains(text, "too many open files"):
		return remedyFiles
	case errors.Is(err, ErrReadOnly):
		return remedyReadOnly
	case errors.As(err, &dns):
		return "check the host in `store`, and this machine's DNS"
	case errors.As(err, new(x509.UnknownAuthorityError)), errors.As(err, new(x509.HostnameError)), errors.As(err, new(*tls.CertificateVerificationError)):
		return "check the host in `store`, and the file of root certificates that it names"
	case db.Dialect.Port == "" && errors.Is(err, fs.ErrPermission):
		return remedyReadOnly
	case db.Dialect.Port == "":
		return "check that the disk of the SQLite file works and has space"
	}
	return "check that the database runs and can be reached from here; tokens stay valid meanwhile, and all else works again when it is back"
}
