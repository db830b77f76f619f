package sqldb

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
)

var postgres = &Dialect{
	Name: "postgres",
	Port: "5432",

	plainText: "sslmode=disable",

	parse: parsePostgres,
	replaced: []string{
		// clock_timestamp is the current time, and not the start of the transaction. In a SELECT of
		// its own it is evaluated only once, so that comparisons with it can use an index.
		"{now}", "(SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT))",
		"{lock}", "FOR UPDATE", "{share}", "", "{found}", "RETURNING 1",
		"{id 32}", `VARCHAR(32) COLLATE "C"`, "{id 64}", `VARCHAR(64) COLLATE "C"`, "{id 128}", `VARCHAR(128) COLLATE "C"`,
		"{text 512}", "VARCHAR(512)",
		"{int}", "BIGINT", "{bytes 32}", "BYTEA", "{blob}", "BYTEA",
		"{serial}", "BIGSERIAL PRIMARY KEY",
		"{options}", "",
	},
	Rewrite: postgresSQL,
	Bytes:   `'\x%x'`,
	open:    openPostgres,
	Alone: func(ctx context.Context, db *DB, p *Pools, do func(*Tx) error) error {
		return db.Transaction(ctx, p.Write, Once, func(t *Tx) error {
			// The lock ends with the transaction, so it works behind a pooler too.
			if _, err := t.Exec(`SELECT pg_advisory_xact_lock(?)`, lockNumber(db.opts.Prefix)); err != nil {
				return err
			}
			return do(t)
		})
	},
	// The search path decides which table is found, as it does when the table is used. to_regclass
	// may not find a table that another process created while we waited for the lock.
	HasTable:    `SELECT COUNT(*) FROM pg_catalog.pg_class WHERE relname = ? AND relkind IN ('r', 'p') AND pg_catalog.pg_table_is_visible(oid)`,
	begin:       `BEGIN ISOLATION LEVEL READ COMMITTED`,
	light:       `SET LOCAL synchronous_commit TO OFF`,
	SeveralRows: func(err error) bool { return PostgresCode(err) == "21000" },

	send:    sendPostgres,
	options: &sql.TxOptions{Isolation: sql.LevelReadCommitted},
	// While the statistics say that a table is small, the planner chooses to scan the whole table.
	// It also takes many small queries in one statement for work that parallel processes should do.
	ByIndex:   `SELECT set_config('enable_seqscan', 'off', true), set_config('max_parallel_workers_per_gather', '0', true)`,
	Temporary: postgresTemporary,
	conflict: func(err error) bool {
		switch PostgresCode(err) {
		case "40001", "40P01", // serialization failure, deadlock
			"55P03", // lock timeout
			"53300", // too many connections
			"57P03": // starting up
			return true
		}
		return false
	},
	lost:      postgresLost,
	Duplicate: func(err error) bool { return PostgresCode(err) == "23505" },
	readOnly:  func(err error) bool { return PostgresCode(err) == "25006" },
	Denied: func(err error) bool {
		code := PostgresCode(err)
		return code == "42501" || code == "3F000" // there is no schema that the user may use
	},
}

// postgresAddress holds the server and how to connect to it.
type postgresAddress struct {
	url      string
	hosts    int
	anyHost  bool // the address sets which of several hosts to use
	execMode bool // the address sets how statements are prepared
	sslmode  bool // the address, or libpq's environment, sets whether connections are encrypted
	lookup   lookup
	outside  atomic.Bool // encryptOutside has removed a fallback to plain text
}

const postgresForm = "postgres://user:password@host:port/database"

// postgresFiles are the parameters that name files. The files are not read before the database is
// opened.
var postgresFiles = []string{"sslrootcert", "sslcert", "sslkey", "passfile", "servicefile"}

func parsePostgres(db *DB, address string) error {
	a, err := parseServer(db, address, postgresForm)
	if err != nil {
		return err
	}
	if a.database == "" && a.query.Get("dbname") == "" {
		return errors.New("postgres needs the name of a database: " + postgresForm)
	}
	switch a.query.Get("target_session_attrs") {
	case "standby", "prefer-standby", "read-only":
		return errors.New("postgres: target_session_attrs must not choose a standby, because its data may lag behind; use read-write")
	}
	db.secrets = append(db.secrets, a.query.Get("password"), a.query.Get("sslpassword"))
	if a.query.Get("application_name") == "" {
		a.query.Set("application_name", "caddy-wx-auth")
	}
	rest := "/" + url.PathEscape(a.database) + "?"
	server := &postgresAddress{
		url:      "postgres://" + a.authority + rest + a.query.Encode(),
		hosts:    strings.Count(a.hosts, ",") + 1,
		anyHost:  a.query.Has("target_session_attrs"),
		execMode: a.query.Has("default_query_exec_mode"),
		sslmode:  a.query.Has("sslmode") || os.Getenv("PGSSLMODE") != "",
		lookup:   db.opts.lookup,
	}
	for _, name := range postgresFiles {
		a.query.Del(name)
	}
	if _, err := pgx.ParseConfig("postgres://" + a.authority + rest + a.query.Encode()); err != nil {
		return db.Redacted(fmt.Errorf("postgres: the address: %w", causeOf(err)))
	}
	db.server = server
	return nil
}

// encryptOutside removes pgx's fallback to plain text from connections that leave private networks.
// pgx falls back if the server, or an attacker on the path, answers that there is no TLS.
func (a *postgresAddress) encryptOutside(ctx context.Context, config *pgx.ConnConfig) error {
	if a.sslmode || config.TLSConfig == nil {
		return nil
	}
	var kept []*pgconn.FallbackConfig
	for _, f := range config.Fallbacks {
		if f.TLSConfig != nil {
			kept = append(kept, f)
			continue
		}
		exposed, err := a.lookup.exposes(ctx, f.Host)
		switch {
		case err != nil && a.hosts == 1:
			return err
		case err != nil: // another host may answer
		case exposed:
			a.outside.Store(true)
		default:
			kept = append(kept, f)
		}
	}
	config.Fallbacks = kept
	return nil
}

// causeOf returns the cause in pgx's error about an address, without the address.
func causeOf(err error) error {
	text := err.Error()
	if i := strings.LastIndex(text, "`: "); i >= 0 {
		text = text[i+len("`: "):]
	}
	return errors.New(text)
}

func openPostgres(ctx context.Context, db *DB, _ bool) (*Pools, error) {
	address := db.server.(*postgresAddress)
	config, err := pgx.ParseConfig(address.url)
	if err != nil {
		// New has parsed the rest of the address.
		return nil, permanent{namedFile{fmt.Errorf("the address: %w", causeOf(err))}}
	}
	if config.ConnectTimeout == 0 || config.ConnectTimeout > dialTimeout {
		config.ConnectTimeout = dialTimeout
	}
	for name, value := range postgresSettings {
		config.RuntimeParams[name] = value
	}
	if address.hosts > 1 && !address.anyHost {
		config.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	}
	options := []stdlib.OptionOpenDB{stdlib.OptionBeforeConnect(address.encryptOutside), stdlib.OptionShouldPing(shouldPing)}
	pool := stdlib.OpenDB(*config, options...)
	direct, err := postgresDirect(ctx, db, pool)
	if startupRefused(err) {
		// Some poolers accept no settings when a connection starts. The database may have the right
		// settings by default. validSettings closes a connection without them.
		pool.Close()
		for name := range postgresSettings {
			delete(config.RuntimeParams, name)
		}
		config.ValidateConnect = allValid(config.ValidateConnect, validSettings)
		pool = stdlib.OpenDB(*config, options...)
		direct, err = postgresDirect(ctx, db, pool)
	}
	if err != nil {
		pool.Close()
		if address.outside.Load() && strings.Contains(err.Error(), "server refused TLS connection") {
			err = fmt.Errorf("%w; %s sslmode=disable", err, plainTextOutside)
		}
		if postgresRefused(err) {
			return nil, permanent{err}
		}
		return nil, err
	}
	if !direct && !address.execMode {
		// A pooler assigns a server connection to each transaction, so a statement prepared on one
		// is unknown on the next. In this mode statements are prepared each time, without a name.
		config.DefaultQueryExecMode = pgx.QueryExecModeExec
	}
	if db.opts.Wrap != nil || config.DefaultQueryExecMode == pgx.QueryExecModeExec {
		pool.Close()
		connector := stdlib.GetConnector(*config, options...)
		if db.opts.Wrap != nil {
			connector = db.opts.Wrap(connector)
		}
		pool = sql.OpenDB(connector)
	}
	bound(pool)
	return &Pools{Write: pool, Read: pool}, nil
}

// postgresDirect connects, records whether the database's encoding covers all of Unicode, and
// reports whether the server is PostgreSQL itself. A pooler, such as PgBouncer, sends a process id
// of its own, which differs from the server's.
func postgresDirect(ctx context.Context, db *DB, pool *sql.DB) (direct bool, err error) {
	conn, err := pool.Conn(ctx)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	err = conn.Raw(func(c any) error {
		pg := c.(*stdlib.Conn).Conn()
		var pid uint32
		err := pg.QueryRow(ctx, "SELECT pg_backend_pid()", pgx.QueryExecModeSimpleProtocol).Scan(&pid)
		direct = pid == pg.PgConn().PID()
		encoding := pg.PgConn().ParameterStatus("server_encoding")
		db.narrow.Store(encoding != "UTF8" && encoding != "SQL_ASCII")
		return err
	})
	return direct, err
}

// postgresSQL numbers the parameters and translates INSERT OR IGNORE to PostgreSQL.
func postgresSQL(query string) string {
	rest, ignore := strings.CutPrefix(query, insertOrIgnore)
	if ignore {
		query = "INSERT " + rest + " ON CONFLICT DO NOTHING"
	}
	parts := strings.Split(query, "?")
	var b strings.Builder
	for i, part := range parts {
		if i > 0 {
			b.WriteString("$" + strconv.Itoa(i))
		}
		b.WriteString(part)
	}
	return b.String()
}

// lockNumber returns the number of the advisory lock for the tables with this prefix.
func lockNumber(prefix string) int64 {
	sum := sha256.Sum256([]byte("caddy-wx-auth " + prefix))
	return int64(binary.BigEndian.Uint64(sum[:]))
}

// PostgresCode returns the SQLSTATE. It is empty if err does not come from the server.
func PostgresCode(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

func postgresTemporary(err error) bool {
	code := PostgresCode(err)
	if code == "" {
		return postgresLost(err)
	}
	if code == "25006" { // read-only, such as a standby after a failover
		return true
	}
	// The classes are connection, transaction rollback, resources, operator and system.
	return slices.Contains([]string{"08", "40", "53", "57", "58"}, code[:2]) || code == "55P03"
}

func postgresLost(err error) bool {
	switch code := PostgresCode(err); {
	case code == "":
		var connect *pgconn.ConnectError
		return !postgresRefused(err) && (connectionLost(err) || pgconn.SafeToRetry(err) || errors.As(err, &connect))
	case code == "25006":
		return true // the connection leads to the wrong server and must be closed
	default:
		return code[:2] == "08" || code == "57P01" || code == "57P02" || code == "57P05"
	}
}

// postgresRefused reports whether only the operator can fix the reason for a failed connection.
func postgresRefused(err error) bool {
	switch code := PostgresCode(err); {
	case code == "42501", code == "3D000", code == "3F000", strings.HasPrefix(code, "28"):
		return true
	case code != "":
		return false
	}
	if errors.As(err, new(settingError)) {
		return true
	}
	// With sslmode=prefer, pgx tries again in plain text if a server has no TLS. Then the error of
	// the second try counts.
	return certificateRefused(err) || strings.Contains(err.Error(), "server refused TLS connection") && !connectionLost(err)
}

func certificateRefused(err error) bool {
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	return errors.As(err, &authority) || errors.As(err, &host) || errors.As(err, &invalid)
}
