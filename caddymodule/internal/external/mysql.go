package external

import (
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user/sqldir"
)

// mysqlKinds are the usable types, by the driver's names for them. For MariaDB's JSON type the
// driver's name is LONGTEXT, and for its UUID and INET6 types it is CHAR.
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

var mysql = dialect{
	wrap:        func(c driver.Connector) driver.Connector { return c },
	mysql:       true,
	placeholder: func(int) string { return "?" },
	// With NULL as a parameter, MySQL may derive a type of bytes: CONCAT(NULL, NULL) is VARBINARY.
	// No user has the phone number or id -1.
	sample: "-1",
	column: func(_ *sqldb.Tx, name, kind string) (sqldir.Column, error) { return mysqlColumn(name, kind), nil },
	values: mysqlValues,
	badValue: func(err error) bool {
		n := sqldb.MySQLNumber(err)
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

// localTime is a TIMESTAMP in the connection's time zone.
type localTime string

// mysqlValues converts the values of rows to the Go types that sqldir expects.
func mysqlValues(t *sqldb.Tx, columns []*sql.ColumnType, rows [][]any) (err error) {
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

// mysqlValue converts one value.
func mysqlValue(kind string, v any) (any, error) {
	raw, ok := v.([]byte)
	if !ok {
		return v, nil
	}
	switch kind {
	case "BIT":
		// MariaDB sends bits for a column, but digits for the result of a subquery, and calls both
		// BIT. So the byte 0x31 may mean b'110001' or the digit 1.
		return sqldir.Unfit{Type: kind, Zero: strings.Trim(string(raw), "\x00") == ""}, nil
	case "UNSIGNED BIGINT": // the driver returns digits beyond int64
		return strconv.ParseUint(string(raw), 10, 64)
	case "DATE", "DATETIME", "TIMESTAMP":
		// The zero date is MySQL's form of a missing date.
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

// moments converts the TIMESTAMPs of rows from the connection's time zone to absolute times. Only
// the server knows that time zone. The connection must keep it, because the configured queries may
// compare with NOW().
func moments(t *sqldb.Tx, rows [][]any) error {
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
	if err := t.Raw().QueryRowContext(t.Context(), query, local...).Scan(into...); err != nil {
		return err
	}
	for i, place := range places {
		whole, fraction, _ := strings.Cut(seconds[i].String, ".")
		s, err := strconv.ParseInt(whole, 10, 64)
		if err != nil {
			return errors.New("the server cannot convert a TIMESTAMP to an absolute time")
		}
		ns, _ := strconv.ParseInt((fraction + "000000000")[:9], 10, 64)
		*place = time.Unix(s, ns).UTC()
	}
	return nil
}
