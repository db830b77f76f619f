package sqldb

import (
	"crypto/tls"
	"errors"
	"io/fs"
	"net"
	"slices"
	"strings"
	"syscall"

	client "github.com/go-sql-driver/mysql"
	codes "modernc.org/sqlite/lib"

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
	{"max_user_connections", "raise max_user_connections of the database's user, or run fewer replicas: each uses up to 20 connections"},
	{"is disabled", "let the pooler take connections again: ENABLE <database> at the console of PgBouncer"},
	{"database is locked", "another process holds the SQLite file for a long time: look for one with `fuser`, such as a backup or a shell of sqlite3, and end it"},
}

const (
	remedySpace       = "free space on the disk of the database"
	remedyConnections = "raise max_connections of the database, or run fewer replicas: each uses up to 20 connections"
	remedyFiles       = "raise the limit of open files for Caddy (LimitNOFILE= in its systemd unit, or ulimit -n)"
	remedyLost        = "put the same file back; or stop Caddy, restore the file from a backup, and start Caddy"
	remedyLogLost     = "restart Caddy: when it stops, it writes the rest of its log into the file"
	remedyDamaged     = "stop Caddy, restore the file from a backup, and start Caddy; or point the store elsewhere"
	remedyCertificate = "check the host in `store`, and the file of root certificates that it names"
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
	case certificateRefused(err), errors.As(err, new(*tls.CertificateVerificationError)):
		return remedyCertificate
	case db.Dialect.Port == "" && errors.Is(err, fs.ErrPermission):
		return remedyReadOnly
	case db.Dialect.Port == "":
		if sqliteCode(err)&0xff == codes.SQLITE_CANTOPEN { // SQLite does not say why
			return "check that the disk of the SQLite file works and has space; if it does, " + remedyFiles
		}
		return "check that the disk of the SQLite file works and has space"
	}
	return "check that the database runs and can be reached from here; tokens stay valid meanwhile, and all else works again when it is back"
}

// namedFile is the error of a file that the address of a server names.
type namedFile struct{ error }

func (e namedFile) Unwrap() error { return e.error }

// Remedy returns advice for the operator about an error of [DB.Open]. It is empty if there is none
// for this kind of error.
func (db *DB) Remedy(err error) string {
	var own interface{ Remedy() string }
	code, number := PostgresCode(err), MySQLNumber(err)
	switch {
	case errors.As(err, &own):
		return own.Remedy()
	case errors.Is(err, ErrLost):
		return "restore the file and its key file from the same backup, or correct the path in `store`"
	case errors.Is(err, ErrDamaged):
		return remedyDamaged
	case errors.As(err, new(namedFile)):
		return "put the file that the address names in its place, and let the user that runs Caddy read it; or correct its path in `store`"
	case certificateRefused(err):
		return remedyCertificate
	case strings.Contains(err.Error(), "server refused TLS connection"), errors.Is(err, client.ErrNoTLS):
		return "turn TLS on at the server; on a network that you trust, " + db.Dialect.plainText + " in the address does without"
	case code == "3D000", number == 1049:
		return "create the database that the address names, or correct its name in `store`"
	case db.Dialect.Denied(err):
		return "give the user in the address all rights on its database and schema"
	case strings.HasPrefix(code, "28"), slices.Contains([]uint16{1045, 1130, 1698}, number):
		return "correct the user and the password in `store`, and let that user in from this host at the server"
	case db.Dialect.Port == "" && errors.Is(err, fs.ErrPermission):
		return remedyReadOnly
	case db.Dialect.Port == "":
		return "see the error, and check the path in `store`"
	}
	return ""
}
