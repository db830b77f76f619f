package external

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user/sqldir"
)

var postgres = dialect{
	wrap:        func(c driver.Connector) driver.Connector { return rowsConnector{c} },
	placeholder: func(n int) string { return "$" + strconv.Itoa(n) },
	// The types of the parameters are requested for each query: a column's type may have changed,
	// and a prepared statement does not survive behind a pooler.
	before: pgx.QueryExecModeDescribeExec,
	column: postgresColumn,
	values: func(*sqldb.Tx, []*sql.ColumnType, [][]any) error { return nil }, // rowsConnector has converted them already
	badValue: func(err error) bool {
		switch sqldb.PostgresCode(err) {
		case "22P02", "22003", "22007", "22008": // malformed text, out of range, invalid date
			return true
		}
		return false
	},
}

// rowsConnector opens connections whose queries convert values with [postgresValue]. The standard
// conversion does not support infinite dates, truncates fractions of a second, and returns unknown
// types as text.
type rowsConnector struct{ driver.Connector }

func (c rowsConnector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return rowsConn{conn.(*stdlib.Conn)}, nil
}

type rowsConn struct{ *stdlib.Conn }

func (c rowsConn) QueryContext(ctx context.Context, query string, named []driver.NamedValue) (driver.Rows, error) {
	if c.Conn.Conn().IsClosed() {
		return nil, driver.ErrBadConn
	}
	args := []any{postgresBinary}
	for _, v := range named {
		args = append(args, v.Value)
	}
	rows, err := c.Conn.Conn().Query(ctx, query, args...)
	if err != nil {
		if pgconn.SafeToRetry(err) {
			return nil, driver.ErrBadConn
		}
		return nil, err
	}
	// The columns are known only after the first row, or at the end.
	more := rows.Next()
	if err := rows.Err(); err != nil {
		rows.Close()
		return nil, err
	}
	return &postgresRows{rows: rows, first: true, more: more}, nil
}

// postgresRows implements driver.Rows.
type postgresRows struct {
	rows        pgx.Rows
	first, more bool
}

func (r *postgresRows) Columns() (names []string) {
	for _, f := range r.rows.FieldDescriptions() {
		names = append(names, f.Name)
	}
	return names
}

// ColumnTypeDatabaseTypeName returns the type's OID.
func (r *postgresRows) ColumnTypeDatabaseTypeName(i int) string {
	return strconv.FormatUint(uint64(r.rows.FieldDescriptions()[i].DataTypeOID), 10)
}

func (r *postgresRows) Close() error {
	r.rows.Close()
	return r.rows.Err()
}

func (r *postgresRows) Next(dest []driver.Value) error {
	more := r.more
	if !r.first {
		more = r.rows.Next()
	}
	r.first = false
	if !more {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return io.EOF
	}
	fields := r.rows.FieldDescriptions()
	for i, raw := range r.rows.RawValues() {
		dest[i] = nil
		if raw == nil {
			continue
		}
		v, err := postgresValue(fields[i].DataTypeOID, raw)
		if err != nil {
			return fmt.Errorf("the column %q: %w", fields[i].Name, err)
		}
		dest[i] = v
	}
	return nil
}

// OIDs for which pgx has no name.
const (
	moneyOID  = 790
	timetzOID = 1266
)

// postgresBinary are the types whose values are sent in binary, because their text depends on the
// settings of the database and the role. All other types are sent as text.
var postgresBinary = pgx.QueryResultFormatsByOID{
	pgtype.Float4OID: pgx.BinaryFormatCode, pgtype.Float8OID: pgx.BinaryFormatCode,
	pgtype.DateOID: pgx.BinaryFormatCode, pgtype.TimeOID: pgx.BinaryFormatCode, pgtype.IntervalOID: pgx.BinaryFormatCode,
	pgtype.TimestampOID: pgx.BinaryFormatCode, pgtype.TimestamptzOID: pgx.BinaryFormatCode,
	moneyOID: pgx.BinaryFormatCode,
}

// postgresKinds are the built-in types that can be used.
var postgresKinds = map[uint32]sqldir.Kind{
	pgtype.TextOID: sqldir.Text, pgtype.VarcharOID: sqldir.Text, pgtype.BPCharOID: sqldir.Text, pgtype.NameOID: sqldir.Text,
	pgtype.QCharOID: sqldir.Text, pgtype.UUIDOID: sqldir.Text, pgtype.UnknownOID: sqldir.Text,
	pgtype.InetOID: sqldir.Text, pgtype.CIDROID: sqldir.Text, pgtype.MacaddrOID: sqldir.Text, pgtype.Macaddr8OID: sqldir.Text,
	pgtype.Int2OID: sqldir.Whole, pgtype.Int4OID: sqldir.Whole, pgtype.Int8OID: sqldir.Whole, pgtype.OIDOID: sqldir.Whole,
	pgtype.NumericOID: sqldir.Decimal,
	pgtype.BoolOID:    sqldir.Other, pgtype.Float4OID: sqldir.Other, pgtype.Float8OID: sqldir.Other,
	pgtype.BitOID: sqldir.Other, pgtype.VarbitOID: sqldir.Other, pgtype.JSONOID: sqldir.Other, pgtype.JSONBOID: sqldir.Other,
	pgtype.DateOID: sqldir.Other, pgtype.TimeOID: sqldir.Other, timetzOID: sqldir.Other, pgtype.IntervalOID: sqldir.Other,
	pgtype.TimestampOID: sqldir.Other, pgtype.TimestamptzOID: sqldir.Other,
	moneyOID: sqldir.Sign,
}

// postgresColumn describes a column. A type that is not built in is looked up in the catalogue.
// Enums, and string types of extensions, are text.
func postgresColumn(t *sqldb.Tx, name, oid string) (sqldir.Column, error) {
	c := sqldir.Column{Name: name, Type: oid}
	var form, category string
	// The statement has no parameter: prepared statements do not survive behind a pooler.
	err := t.Raw().QueryRowContext(t.Context(), `SELECT pg_catalog.format_type(oid, NULL), typtype::text, typcategory::text FROM pg_catalog.pg_type WHERE oid = `+oid,
		pgx.QueryExecModeDescribeExec).Scan(&c.Type, &form, &category)
	if err != nil {
		return c, refused{err}
	}
	n, _ := strconv.ParseUint(oid, 10, 32)
	c.Kind = postgresKinds[uint32(n)]
	if c.Kind == sqldir.Odd && (form == "e" || form == "b" && category == "S" && n >= firstNormalOID) {
		c.Kind = sqldir.Text
	}
	quoted := pgx.Identifier{name}.Sanitize()
	switch {
	case c.Kind == sqldir.Sign:
		c.Remedy = fmt.Sprintf("cast it, such as price::numeric AS %s", quoted)
	case n == pgtype.ByteaOID:
		c.Remedy = fmt.Sprintf("select its text, such as encode(avatar, 'base64') AS %s", quoted)
	case category == "A" || category == "C":
		c.Remedy = fmt.Sprintf("select it as JSON, such as to_json(roles) AS %s, or as text, such as roles::text", quoted)
	default:
		c.Remedy = fmt.Sprintf("cast it, such as place::text AS %s", quoted)
	}
	return c, nil
}

// firstNormalOID is the first OID that is not built in.
const firstNormalOID = 16384

// postgresValue converts a value to the Go type that sqldir expects.
func postgresValue(oid uint32, raw []byte) (any, error) {
	if size, ok := postgresSizes[oid]; ok && len(raw) != size {
		return nil, errors.New("the server sent a value that does not have PostgreSQL's binary format")
	}
	switch oid {
	case pgtype.BoolOID:
		return string(raw) == "t", nil
	case pgtype.Int2OID, pgtype.Int4OID, pgtype.Int8OID:
		return strconv.ParseInt(string(raw), 10, 64)
	case pgtype.OIDOID:
		return strconv.ParseUint(string(raw), 10, 32)
	case pgtype.Float4OID:
		return math.Float32frombits(binary.BigEndian.Uint32(raw)), nil
	case pgtype.Float8OID:
		return math.Float64frombits(binary.BigEndian.Uint64(raw)), nil
	case pgtype.BPCharOID:
		return strings.TrimRight(string(raw), " "), nil // PostgreSQL pads CHAR values with blanks that have no meaning
	case pgtype.JSONOID, pgtype.JSONBOID:
		return jsonValue(raw)
	case pgtype.DateOID:
		days := int32(binary.BigEndian.Uint32(raw))
		if days == math.MaxInt32 || days == math.MinInt32 {
			return infinite(days > 0), nil
		}
		return before(postgresEpoch.AddDate(0, 0, int(days)), time.DateOnly), nil
	case pgtype.TimestampOID, pgtype.TimestamptzOID:
		us := int64(binary.BigEndian.Uint64(raw))
		if us == math.MaxInt64 || us == math.MinInt64 {
			return infinite(us > 0), nil
		}
		at := postgresEpoch.Add(0)
		at = time.Unix(at.Unix()+floorDiv(us, 1e6), (us-floorDiv(us, 1e6)*1e6)*1e3).UTC()
		if oid == pgtype.TimestampOID {
			return before(at, "2006-01-02 15:04:05.999999"), nil
		}
		if at.Year() < 1 || at.Year() > 9999 {
			return before(at, time.RFC3339Nano), nil
		}
		return at, nil
	case pgtype.TimeOID:
		return timeOfDay(int64(binary.BigEndian.Uint64(raw))), nil
	case pgtype.IntervalOID:
		return interval(int64(binary.BigEndian.Uint64(raw)), int32(binary.BigEndian.Uint32(raw[8:])), int32(binary.BigEndian.Uint32(raw[12:]))), nil
	case moneyOID:
		return sqldir.Unfit{Type: "money", Zero: binary.BigEndian.Uint64(raw) == 0}, nil
	}
	if oid < firstNormalOID && postgresKinds[oid] == sqldir.Odd {
		name := strconv.FormatUint(uint64(oid), 10)
		if t, ok := postgresNames.TypeForOID(oid); ok {
			name = t.Name
		}
		return sqldir.Unfit{Type: name}, nil
	}
	return string(raw), nil
}

var (
	postgresEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	postgresNames = pgtype.NewMap()
	postgresSizes = map[uint32]int{
		pgtype.Float4OID: 4, pgtype.Float8OID: 8, pgtype.DateOID: 4, pgtype.TimeOID: 8, pgtype.IntervalOID: 16,
		pgtype.TimestampOID: 8, pgtype.TimestamptzOID: 8, moneyOID: 8,
	}
)

func infinite(later bool) string {
	if later {
		return "infinity"
	}
	return "-infinity"
}

// floorDiv divides and rounds down.
func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// before formats a time like PostgreSQL's ISO style, including years BC.
func before(t time.Time, form string) string {
	if t.Year() > 0 {
		return t.Format(form)
	}
	bc := 1 - t.Year()
	// The date is formatted in 2000, a leap year, so that 29 February stays valid.
	return fmt.Sprintf("%04d%s BC", bc, t.AddDate(2000-t.Year(), 0, 0).Format(form)[len("2006"):])
}

// timeOfDay formats a time of day, up to and including 24:00:00.
func timeOfDay(us int64) string {
	text := fmt.Sprintf("%02d:%02d:%02d", us/3600e6, us/60e6%60, us/1e6%60)
	if us %= 1e6; us != 0 {
		text += strings.TrimRight(fmt.Sprintf(".%06d", us), "0")
	}
	return text
}

// interval formats an interval in ISO 8601, like intervalstyle iso_8601.
func interval(us int64, days, months int32) string {
	if us == math.MaxInt64 && days == math.MaxInt32 && months == math.MaxInt32 {
		return infinite(true)
	}
	if us == math.MinInt64 && days == math.MinInt32 && months == math.MinInt32 {
		return infinite(false)
	}
	var b strings.Builder
	part := func(n int64, unit string) {
		if n != 0 {
			fmt.Fprintf(&b, "%d%s", n, unit)
		}
	}
	b.WriteByte('P')
	part(int64(months)/12, "Y")
	part(int64(months)%12, "M")
	part(int64(days), "D")
	if us != 0 || b.Len() == 1 {
		b.WriteByte('T')
		part(us/3600e6, "H")
		part(us/60e6%60, "M")
		seconds, rest := us/1e6%60, us%1e6
		switch {
		case rest != 0:
			sign := ""
			if us < 0 {
				sign = "-"
			}
			b.WriteString(sign + strconv.FormatInt(abs(seconds), 10) + strings.TrimRight(fmt.Sprintf(".%06d", abs(rest)), "0") + "S")
		case seconds != 0 || us == 0:
			fmt.Fprintf(&b, "%dS", seconds)
		}
	}
	return b.String()
}

func abs(n int64) int64 {
	if n < 0 {
		return -n
	}
	return n
}

// jsonValue decodes a JSON column. Numbers keep all their digits.
func jsonValue(raw []byte) (v any, err error) {
	dec := json.NewDecoder(strings.NewReader(string(raw)))
	dec.UseNumber()
	if err = dec.Decode(&v); err != nil {
		return nil, errors.New("it is not JSON")
	}
	return v, nil
}
