package external

import (
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb/dbtest"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// disabledValues lists expressions, and whether each disables a user. A value that means neither
// yes nor no had some meaning to the system that wrote it, so it disables the user.
var disabledValues = map[string]struct{ out, in []string }{
	"postgres": {
		out: []string{"TRUE", "1::int2", "-1::int4", "2::int8", "0.5::real", "'NaN'::real", "-0.001::numeric", "0.01::numeric", "'NaN'::numeric", "1::money", "'-0.01'::money",
			"'2'::char(1)", "'2'::text", "'t'::text", "'true'::text", "'Y'::text", "' yes '::text", "'banned'::text", "'null'::text", "'off-duty'::text", "'00001'::text",
			"now()", "now()::timestamp", "now()::date", "now()::time", "now()::timetz", "'00:00:00'::time",
			"'infinity'::timestamptz", "'-infinity'::timestamptz", "'infinity'::timestamp", "'-infinity'::date", "'1 day'::interval", "'-1 day'::interval", "'1 month -30 days'::interval",
			"B'1'", "B'0100'::varbit", "'banned'::state", "'true'::json", "'2'::jsonb", "'\"banned\"'::jsonb", "'{}'::jsonb", "'[]'::json", "'[false]'::json",
			"'1'::oid", "'x'::\"char\"", "'01a20a30-eddd-71c0-b9f8-bb3f5de858db'::uuid"},
		in: []string{"FALSE", "0::int2", "0::int8", "0::real", "'-0'::float8", "0.00::numeric", "0::numeric", "0::money", "NULL", "NULL::timestamptz", "NULL::interval", "NULL::money",
			"'0'::char(1)", "'0 '::char(4)", "''::text", "' '::text", "'f'::text", "'FALSE'::text", "'n'::text", "'No'::text", "'off'::text", "'0.0'::text", "'-0'::text", "'000'::varchar",
			"'0'::interval", "B'0'", "B'0000'::varbit", "'no'::state", "'false'::json", "'0'::jsonb", "'0.0'::json", "'null'::jsonb", "'\"false\"'::jsonb", "'\"\"'::json", "0::oid", "'0'::\"char\""},
	},
	"mysql": {
		out: []string{"TINYINT 1", "TINYINT -1", "BIGINT UNSIGNED 18446744073709551615", "FLOAT 0.5", "DOUBLE -0.001", "DECIMAL(4,2) 0.01", "DECIMAL(4,2) -0.01",
			"CHAR(1) '2'", "CHAR(1) 'Y'", "VARCHAR(9) 'banned'", "VARCHAR(9) 'TRUE'", "TEXT 'on'", "BIT(1) b'1'", "BIT(8) b'110000'", "BIT(8) b'100'", "BIT(16) b'100000000'",
			"DATE '2026-03-01'", "DATE '2026-00-00'", "DATETIME '2026-03-01 12:00:00'", "DATETIME(6) '2026-03-01 12:00:00.5'", "TIMESTAMP NULL|'2026-03-01 12:00:00'",
			"TIME '12:00:00'", "TIME '-01:00:00'", "TIME '00:00:00'", "YEAR 2026", "ENUM('no','banned') 'banned'", "SET('spam','abuse') 'spam'", "JSON 'true'", "JSON '2'", "JSON '{}'",
			"UUID '01a20a30-eddd-71c0-b9f8-bb3f5de858db'"},
		in: []string{"TINYINT 0", "BIGINT UNSIGNED 0", "FLOAT 0", "DOUBLE -0.0", "DECIMAL(4,2) 0", "CHAR(1) '0'", "CHAR(1) ''", "CHAR(1) 'N'", "VARCHAR(9) 'false'", "VARCHAR(9) '0.00'", "TEXT 'Off'",
			"BIT(1) b'0'", "BIT(16) b'0'", "DATE '0000-00-00'", "DATETIME '0000-00-00 00:00:00'", "TIMESTAMP NULL|'0000-00-00 00:00:00'", "DATETIME NULL", "TIME NULL", "YEAR 0", "ENUM('no','banned') 'no'",
			"SET('spam','abuse') ''", "JSON 'false'", "JSON '0'"},
	},
}

// Once, an unknown status led to a 503, so a user who was banned with such a status kept their
// sessions.
func TestDisabledFailsClosed(t *testing.T) {
	dbtest.OnServers(t, func(t *testing.T, kind, address string) {
		f := tablesAt(t, address)
		if kind == "postgres" {
			put(t, f, "CREATE TYPE state AS ENUM ('no', 'banned')")
		}
		values := disabledValues[kind]
		for out, list := range map[bool][]string{true: values.out, false: values.in} {
			for _, expression := range list {
				column := expression
				if kind == "mysql" {
					typ, value := cutType(expression)
					putIn(t, f, typ, value)
					column = "v"
				}
				from := " FROM (SELECT 1 AS one) x"
				if kind == "mysql" {
					from = " FROM one_column"
				}
				d := directoryOf(t, f, "SELECT 1 AS id, "+column+" AS disabled"+from+" WHERE :phone <> ''", "", "SELECT 1 AS id, "+column+" AS disabled"+from+" WHERE :id <> ''", "")
				err := d.Open(t.Context())
				if err != nil {
					t.Errorf("%s: %v", expression, err)
				}
				u, err := d.Login(t.Context(), user.Login{OpenID: "o1", Phone: phone(t, "13800138000")})
				if err != nil || u.Disabled != out {
					t.Errorf("%s: disabled %v, %v; want %v", expression, u.Disabled, err, out)
				}
				if u, err := d.Check(t.Context(), "1"); err != nil || u.Disabled != out {
					t.Errorf("%s, at a refresh: disabled %v, %v; want %v", expression, u.Disabled, err, out)
				}
			}
		}
	})
}

// cutType splits a column's type from its value, at a blank or a |.
func cutType(s string) (typ, value string) {
	if typ, value, ok := strings.Cut(s, "|"); ok {
		return typ, value
	}
	depth := 0
	for i := len(s) - 1; i > 0; i-- {
		switch s[i] {
		case '\'':
			depth ^= 1
		case ' ':
			if depth == 0 {
				return s[:i], s[i+1:]
			}
		}
	}
	return s, "NULL"
}

// Bytes, arrays and points are neither true nor false. They are refused when the configuration is
// loaded, before anybody logs in.
func TestDisabledOfOddTypesIsRefusedAtLoad(t *testing.T) {
	dbtest.OnServers(t, func(t *testing.T, kind, address string) {
		f := tablesAt(t, address)
		types := map[string][]string{
			"postgres": {`'\x00'::bytea`, "'{1}'::int[]", "'(1,2)'::point", "'[1,2)'::int4range", "'<a/>'::xml"},
			"mysql":    {"CAST('a' AS BINARY)", "POINT(1,2)"},
		}[kind]
		for _, expression := range types {
			for _, queries := range [][2]string{{expression, "0"}, {"0", expression}} {
				d := directoryOf(t, f, "SELECT 1 AS id, "+queries[0]+" AS disabled FROM (SELECT 1 AS one) x WHERE :phone <> ''", "",
					"SELECT 1 AS id, "+queries[1]+" AS disabled FROM (SELECT 1 AS one) x WHERE :id <> ''", "")
				if err := d.Open(t.Context()); err == nil || !strings.Contains(err.Error(), `"disabled"`) {
					t.Errorf("%s: %v", queries, err)
				}
			}
		}
	})
}
