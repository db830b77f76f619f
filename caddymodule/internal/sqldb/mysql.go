package sqldb

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"time"

	client "github.com/go-sql-driver/mysql"
)

// mysql is MySQL from 5.7 on, and MariaDB.
var mysql = &Dialect{
	Name: "mysql",
	Port: mysqlPort,

	plainText: "tls=false",

	parse: parseMySQL,
	replaced: []string{
		// UTC: a local time occurs twice when the clocks are set back.
		"{now}", "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', UTC_TIMESTAMP(3)) DIV 1000)",
		"{lock}", "FOR UPDATE", "{share}", "LOCK IN SHARE MODE", "{found}", together + "SELECT ROW_COUNT()",
		"{id 32}", mysqlText(32), "{id 64}", mysqlText(64), "{id 128}", mysqlText(128), "{text 512}", mysqlText(512),
		"{int}", "BIGINT", "{bytes 32}", "VARBINARY(32)", "{blob}", "BLOB",
		"{serial}", "BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY",
		// The longest index has 1024 bytes, for two ids of 128 characters. A row in this format
		// allows 3072.
		"{options}", "ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
	},
	Rewrite:     mysqlSQL,
	Bytes:       "x'%x'",
	open:        openMySQL,
	Alone:       mysqlAlone,
	HasTable:    `SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = ?`,
	DeleteLimit: true,
	begin:       "START TRANSACTION", // the connection sets the isolation level, see mysql_conn.go
	SeveralRows: func(err error) bool { return MySQLNumber(err) == 1242 },
	send:        sendMySQL,
	impatient:   `SET innodb_lock_wait_timeout = 1`, // the shortest
	patient:     `SET innodb_lock_wait_timeout = ` + mysqlLockWait,
	Temporary:   mysqlTemporary,
	conflict: func(err error) bool {
		switch MySQLNumber(err) {
		case 1213, 1205, // deadlock (with Galera also at the commit), lock wait timeout
			1020,             // MariaDB: a row has changed since the snapshot
			1040, 1203, 1226: // too many connections
			return true
		}
		return false
	},
	lost:      mysqlLost,
	Duplicate: func(err error) bool { n := MySQLNumber(err); return n == 1062 || n == 1586 },
	readOnly:  mysqlReadOnly,
	Denied: func(err error) bool {
		n := MySQLNumber(err)
		return n == 1044 || n == 1142 || n == 1227
	},
	// A table, a column or an index exists already, or no longer exists.
	Done: func(err error) bool {
		switch MySQLNumber(err) {
		case 1050, 1060, 1061, 1091:
			return true
		}
		return false
	},
}

// mysqlLockWait is how long a statement waits for the lock of a row, in seconds.
const mysqlLockWait = "4"

func mysqlText(characters int) string {
	return fmt.Sprintf("VARCHAR(%d) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", characters)
}

// mysqlAddress holds the server and how to connect to it. The root certificates are read when it is
// opened.
type mysqlAddress struct {
	config *client.Config
	ca     string // path of a file
	tls    bool   // the address sets whether connections are encrypted
	lookup lookup
}

const mysqlForm = "mysql://user:password@host:port/database"

const mysqlPort = "3306"

func parseMySQL(db *DB, address string) error {
	a, err := parseServer(db, address, mysqlForm)
	switch {
	case err != nil:
		return err
	case a.database == "":
		return errors.New("mysql needs the name of a database: " + mysqlForm)
	case strings.Contains(a.hosts, ","):
		return errors.New("mysql: use one host, that of the primary: " + mysqlForm)
	}
	c := client.NewConfig()
	c.User, c.Passwd, c.DBName = a.user, a.password, a.database
	c.Net, c.Addr = "tcp", a.hosts
	if a.hosts == "" {
		c.Addr = "127.0.0.1"
	}
	if !portForm.MatchString(c.Addr) {
		c.Addr = net.JoinHostPort(strings.Trim(c.Addr, "[]"), mysqlPort)
	}
	server := &mysqlAddress{config: c, tls: a.query.Has("tls"), lookup: db.opts.lookup}
	for name := range a.query {
		value := a.query.Get(name)
		switch {
		case name == "tls" && value == "true":
			c.TLS = &tls.Config{ServerName: hostOf(c.Addr)}
		case name == "tls" && value == "skip-verify":
			c.TLS = &tls.Config{InsecureSkipVerify: true}
		case name == "tls" && value == "preferred":
			c.TLS, c.AllowFallbackToPlaintext = &tls.Config{InsecureSkipVerify: true}, true
		case name == "tls" && value == "false":
		case name == "tls":
			return errors.New("mysql: tls is true, skip-verify, preferred or false")
		case name == "tls_ca" && value != "":
			server.ca = value
		case name == "socket" && value != "":
			c.Net, c.Addr = "unix", value
		default:
			return fmt.Errorf("mysql: unknown parameter %q: use tls, tls_ca (a file of certificates) or socket (a path)", name)
		}
	}
	if server.ca != "" && (c.TLS == nil || c.TLS.InsecureSkipVerify) {
		return errors.New("mysql: tls_ca needs tls=true")
	}
	c.Timeout = dialTimeout
	c.ClientFoundRows = true // count rows found, not rows changed
	c.InterpolateParams = true
	c.Logger = &client.NopLogger{}
	c.Params = map[string]string{
		// A value that does not fit is an error, as in the other databases.
		"sql_mode": "'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'",
		// A server's settings or its init_connect may turn autocommit off. A statement that is sent
		// without a BEGIN would then never be committed.
		"autocommit": "1",
		// After a longer wait the client gives up on a statement, and the server does not notice
		// that by itself.
		"innodb_lock_wait_timeout": mysqlLockWait, "lock_wait_timeout": "10",
		// A server may be configured to ignore the client's character set, or its init_connect may
		// change it.
		"character_set_client": "utf8mb4", "character_set_results": "utf8mb4", "collation_connection": "utf8mb4_general_ci",
	}
	db.server = server
	return nil
}

// encryptOutside encrypts a connection that leaves private networks, unless the address sets
// whether connections are encrypted.
func (a *mysqlAddress) encryptOutside(ctx context.Context, config *client.Config) error {
	if a.tls || config.Net != "tcp" {
		return nil
	}
	exposed, err := a.lookup.exposes(ctx, hostOf(config.Addr))
	if exposed {
		config.TLS = &tls.Config{InsecureSkipVerify: true} // like tls=skip-verify, this stops eavesdroppers but not impostors
	}
	return err
}

var portForm = regexp.MustCompile(`:[0-9]+$`)

func hostOf(addr string) string {
	host, _, _ := net.SplitHostPort(addr)
	return host
}

func openMySQL(ctx context.Context, db *DB, _ bool) (*Pools, error) {
	address := db.server.(*mysqlAddress)
	config := address.config.Clone()
	if address.ca != "" {
		pem, err := os.ReadFile(address.ca)
		if err != nil {
			return nil, permanent{namedFile{fmt.Errorf("tls_ca: %w", err)}}
		}
		config.TLS.RootCAs = x509.NewCertPool()
		if !config.TLS.RootCAs.AppendCertsFromPEM(pem) {
			return nil, permanent{namedFile{fmt.Errorf("tls_ca: %s holds no certificate in PEM", address.ca)}}
		}
	}
	if err := config.Apply(client.BeforeConnect(address.encryptOutside)); err != nil {
		return nil, permanent{err}
	}
	config.MultiStatements = db.opts.Wrap == nil // see sendMySQL
	connector, err := client.NewConnector(config)
	if err != nil {
		return nil, permanent{err}
	}
	connector = mysqlConnector{connector}
	if db.opts.Wrap != nil {
		connector = db.opts.Wrap(connector)
	}
	pool := bound(sql.OpenDB(connector))
	if err := pool.PingContext(ctx); err != nil {
		pool.Close()
		if !address.tls && errors.Is(err, client.ErrNoTLS) {
			return nil, permanent{fmt.Errorf("%w; %s tls=false", err, plainTextOutside)}
		}
		if mysqlRefused(err) {
			return nil, permanent{err}
		}
		return nil, err
	}
	if config.MultiStatements {
		if err := checkTogether(ctx, pool); err != nil {
			pool.Close()
			return nil, err
		}
	}
	return &Pools{Write: pool, Read: pool}, nil
}

// mysqlAlone takes a lock that ends with the connection. do does not run in a transaction, because
// MySQL commits before and after every change of a table.
func mysqlAlone(ctx context.Context, db *DB, p *Pools, do func(*Tx) error) error {
	conn, err := p.Write.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	t := &Tx{ctx: ctx, db: db, q: conn}
	wait := 1 + int(time.Until(deadline(ctx)).Seconds())
	// The server's locks have one name space for all databases.
	const name = `CONCAT('wx_auth ', LEFT(SHA2(CONCAT(DATABASE(), ' ', ?), 256), 40))`
	var got sql.NullInt64
	if err := t.Row(`SELECT GET_LOCK(`+name+`, ?)`, db.opts.Prefix, wait).Scan(&got); err != nil {
		return err
	}
	if got.Int64 != 1 {
		return fmt.Errorf("%w: another replica has been migrating the schema for %d s", ErrUnavailable, wait)
	}
	err = do(t)
	var released sql.NullInt64
	if e := t.Row(`SELECT RELEASE_LOCK(`+name+`)`, db.opts.Prefix).Scan(&released); e != nil {
		// The lock ends with the connection.
		conn.Raw(func(any) error { return driver.ErrBadConn })
	}
	return err
}

func deadline(ctx context.Context) time.Time {
	at, _ := ctx.Deadline() // bounded has set it
	return at
}

var excluded = regexp.MustCompile(`\bexcluded\.(\w+)`)

// mysqlSQL translates the handling of existing rows to MySQL. MySQL's INSERT IGNORE would ignore
// more errors, such as truncated values. So the query becomes a plain INSERT, and Tx.Exec checks
// its error.
func mysqlSQL(query string) string {
	if rest, ok := strings.CutPrefix(query, insertOrIgnore); ok {
		return "INSERT " + rest
	}
	before, conflict, ok := strings.Cut(query, "ON CONFLICT (")
	if !ok {
		return query
	}
	_, set, _ := strings.Cut(conflict, "DO UPDATE SET")
	return before + "ON DUPLICATE KEY UPDATE" + excluded.ReplaceAllString(set, "VALUES($1)")
}

// MySQLNumber returns the server's error number, or 0 if err does not come from the server.
func MySQLNumber(err error) uint16 {
	var e *client.MySQLError
	if errors.As(err, &e) {
		return e.Number
	}
	return 0
}

func mysqlTemporary(err error) bool {
	switch MySQLNumber(err) {
	case 0:
		return mysqlLost(err)
	case 1213, 1205, 1020, 1040, 1203, 1226, // the errors of conflict above
		1021, 1114, 1030, 1026, // disk or table full, or not readable
		1036, 1290, 1792, 1836, // read-only
		1037, 1038, 1041, 1129, // out of memory; the host is blocked for a while
		1047, 1180, 1317, 1969, 3024, 3100, 3101, 1461: // cluster not ready, interrupted, too slow
		return true
	}
	return mysqlLost(err)
}

func mysqlReadOnly(err error) bool {
	switch MySQLNumber(err) {
	case 1036, 1290, 1792, 1836:
		return true
	}
	return false
}

func mysqlLost(err error) bool {
	switch MySQLNumber(err) {
	case 0:
		return !mysqlRefused(err) && (errors.Is(err, client.ErrInvalidConn) || connectionLost(err))
	case 1290, 1792, 1836: // read-only: the connection leads to a former primary
		return true
	case 1053, 1077, 1079, 1080, 1152, 1158, 1159, 1160, 1161, 1184, 1927, 2006, 2013:
		return true // shutting down, aborted, killed
	}
	return false
}

// mysqlRefused reports whether only the operator can fix the reason for a failed connection.
func mysqlRefused(err error) bool {
	switch MySQLNumber(err) {
	case 0:
	case 1044, 1045, 1049, 1130, 1131, 1132, 1133, 1227, 1251, 1396, 1524, 1698, 1820, 1862, 3118, 3159, 4151:
		return true
	default:
		return false
	}
	for _, refused := range []error{
		client.ErrNoTLS, client.ErrCleartextPassword, client.ErrNativePassword,
		client.ErrOldPassword, client.ErrUnknownPlugin, client.ErrOldProtocol,
	} {
		if errors.Is(err, refused) {
			return true
		}
	}
	return certificateRefused(err)
}
