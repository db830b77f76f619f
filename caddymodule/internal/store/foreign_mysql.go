package store

import (
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user/sqldir"
)

// mysqlKinds are the types that can be used, as the driver names them. MariaDB's JSON
// is LONGTEXT to it, its UUID and INET6 are CHAR.
var mysqlKinds = map[string]sqldir.Kind{
	"NULL": sqldir.Text, // a parameter, while the configuration is loaded
	"CHAR": sqldir.Text, "VARCHAR": sqldir.Text, "ENUM": sqldir.Text, "SET": sqldir.Text,
	"TINYTEXT": sqldir.Text, "TEXT": sqldir.Text, "MEDIUMTEXT": sqldir.Text, "LONGTEXT": sqldir.Text,
	"TINYINT": sqldir.Whole, "SMALLINT": sqldir.Whole, "MEDIUMINT": sqldir.Whole, "INT": sqldir.Whole, "BIGINT": sqldir.Whole,
	"UNSIGNED TINYINT": sqldir.Whole, "UNSIGNED SMALLINT": sqldir.Whole, "UNSIGNED MEDIUMINT": sqldir.Whole,
	"UNSIGNED INT": sqldir.Whole, "UNSIGNED BIGINT": sqldir.Whole,
	"DECIMAL": sqldir.Decimal,
	"FLOAT":   sqldir.Other, "DOUBLE": sqldir.Other, "BIT": sqldir.Sign, "YEAR": sqldir.Other,
	"DATE": sqldir.Other, "DATETIME": sqldir.Other, "TIMESTAMP": sqldir.Other, "TIME": sqldir.Other, "JSON": sqldir.Other,
}

var mysqlForeign = foreignDialect{
	mysql:       true,
	placeholder: func(int) string { return "?" },
	// MySQL makes bytes of NULL: CONCAT(NULL, NULL) would be VARBINARY. No user has the
	// number, or the id, -1.
	sample: "-1",
	column: func(_ *tx, name, kind string) (sqldir.Column, error) { return mysqlColumn(name, kind), nil },
	values: mysqlValues,
	badValue: func(err error) bool {
		n := mysqlNumber(err)
		return n == 1292 || n == 1366 || n == 1264
	},
}

// mysqlColumn describes a column.
func mysqlColumn(name, kind string) sqldir.Column {
	c := sqldir.Column{Name: name, Type: kind, Kind: mysqlKinds[kind]}
	quoted := "`" + strings.ReplaceAll(name, "`", "``") + "`"
	switch {
	case kind == "GEOMETRY":
		c.Remedy = "select its text, such as ST_AsText(place) AS " + quoted
	case kind == "BIT":
		c.Remedy = "select the number, such as vip + 0 AS " + quoted
	case c.Kind == sqldir.Odd:
		if c.Type == "" {
			c.Type = "unknown to the driver"
		}
		c.Remedy = fmt.Sprintf("if it holds text, select CONVERT(x USING utf8mb4) AS %s, else HEX(x) or TO_BASE64(x)", quoted)
	default:
		c.Remedy = "cast it, such as CAST(x AS CHAR) AS " + quoted
	}
	return c
}

// localTime is a TIMESTAMP as the connection's time zone shows it.
type localTime string

// mysqlValues reads values in their one form.
func mysqlValues(t *tx, columns []*sql.ColumnType, rows [][]any) (err error) {
	for _, row := range rows {
		for i, c := range columns {
			if row[i], err = mysqlValue(c.DatabaseTypeName(), row[i]); err != nil {
				return fmt.Errorf("the column %q: %w", c.Name(), err)
			}
		}
	}
	if err := moments(t, rows); err != nil {
		return refused{err}
	}
	return nil
}

// mysqlValue reads a value in its one form.
func mysqlValue(kind string, v any) (any, error) {
	raw, ok := v.([]byte)
	if !ok {
		return v, nil
	}
	switch kind {
	case "BIT":
		// MariaDB sends bits for a column, but digits for the result of a subquery, and calls
		// both BIT: b'110001' and 1 are the same byte.
		return sqldir.Unfit{Type: kind, Zero: strings.Trim(string(raw), "\x00") == ""}, nil
	case "UNSIGNED BIGINT": // beyond int64 the driver gives the digits
		return strconv.ParseUint(string(raw), 10, 64)
	case "DATE", "DATETIME", "TIMESTAMP":
		// The zero date is how MySQL writes that there is none.
		if strings.Trim(string(raw), "0-: .") == "" {
			return nil, nil
		}
		if kind == "TIMESTAMP" {
			return localTime(raw), nil
		}
	case "JSON":
		return jsonValue(raw)
	}
	if mysqlKinds[kind] == sqldir.Odd {
		return sqldir.Unfit{Type: kind}, nil
	}
	return string(raw), nil
}

// moments replaces the TIMESTAMPs of rows by the moments that they mean. The connection
// shows them in its time zone, which only the server can read back: the team's queries
// compare with NOW(), so the zone stays theirs.
func moments(t *tx, rows [][]any) error {
	var local []any
	var places []*any
	for _, row := range rows {
		for i := range row {
			if at, ok := row[i].(localTime); ok {
				local, places = append(local, string(at)), append(places, &row[i])
			}
		}
	}
	if len(local) == 0 {
		return nil
	}
	seconds, into := make([]sql.NullString, len(local)), make([]any, len(local))
	for i := range into {
		into[i] = &seconds[i]
	}
	query := "SELECT " + strings.Repeat(", UNIX_TIMESTAMP(?)", len(local))[2:]
	if err := t.q.QueryRowContext(t.ctx, query, local...).Scan(into...); err != nil {
		return err
	}
	for i, place := range places {
		whole, fraction, _ := strings.Cut(seconds[i].String, ".")
		s, err := strconv.ParseInt(whole, 10, 64)
		if err != nil {
			return errors.New("a TIMESTAMP that the server does not know the moment of")
		}
		ns, _ := strconv.ParseInt((fraction + "000000000")[:9], 10, 64)
		*place = time.Unix(s, ns).UTC()
	}
	return nil
}
