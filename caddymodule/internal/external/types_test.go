package external

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb/dbtest"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user/sqldir"
)

// refusedType marks a type that the load of the configuration refuses.
const refusedType = "refused"

// postgresForms lists PostgreSQL's types, each with an expression of the type and the JSON that it
// must become. TestEveryPostgresTypeIsDecided reports types that are missing here.
var postgresForms = []struct{ typ, value, want string }{
	{"bool", "TRUE", `true`},
	{"int2", "-32768", `-32768`},
	{"int4", "1000000", `1000000`},
	{"int8", "9223372036854775807", `9223372036854775807`},
	{"int8", "1000000000000000000", `1000000000000000000`},
	{"oid", "4294967295", `4294967295`},
	{"float4", "0.1", `0.1`},
	{"float4", "'NaN'", `"NaN"`},
	{"float8", "1e6", `1000000`},
	{"float8", "1e300", `1e+300`},
	{"float8", "0.1", `0.1`},
	{"float8", "'-infinity'", `"-Infinity"`},
	{"numeric", "12345678901234567890.10", `"12345678901234567890.10"`},
	{"numeric", "'NaN'", `"NaN"`},
	{"text", "'安 \" <'", `"安 \" <"`},
	{"varchar", "'a '", `"a "`},
	{"bpchar", "'a   '", `"a"`},
	{"name", "'a'", `"a"`},
	{"char", "'a'", `"a"`},
	{"uuid", "'01A20A30-EDDD-71C0-B9F8-BB3F5DE858DB'", `"01a20a30-eddd-71c0-b9f8-bb3f5de858db"`},
	{"inet", "'192.168.0.1'", `"192.168.0.1"`},
	{"inet", "'::1/64'", `"::1/64"`},
	{"cidr", "'10.0.0.0/8'", `"10.0.0.0/8"`},
	{"macaddr", "'08:00:2B:01:02:03'", `"08:00:2b:01:02:03"`},
	{"macaddr8", "'08:00:2B:01:02:03:04:05'", `"08:00:2b:01:02:03:04:05"`},
	{"date", "'2026-03-01'", `"2026-03-01"`},
	{"date", "'infinity'", `"infinity"`},
	{"date", "'-infinity'", `"-infinity"`},
	{"date", "'0044-03-15 BC'", `"0044-03-15 BC"`},
	{"date", "'5874897-12-31'", `"5874897-12-31"`},
	{"time", "'03:04:05.120'", `"03:04:05.12"`},
	{"time", "'24:00:00'", `"24:00:00"`},
	{"timetz", "'03:04:05+08'", `"03:04:05+08"`},
	{"timestamp", "'2026-03-01 12:00:00.5'", `"2026-03-01 12:00:00.5"`},
	{"timestamp", "'infinity'", `"infinity"`},
	{"timestamp", "'1969-12-31 23:59:59.999999'", `"1969-12-31 23:59:59.999999"`},
	{"timestamptz", "'2026-03-01 12:00:00.123456+08'", `"2026-03-01T04:00:00.123456Z"`},
	{"timestamptz", "'-infinity'", `"-infinity"`},
	{"timestamptz", "'0002-02-28 12:00:00+00 BC'", `"0002-02-28T12:00:00Z BC"`},
	{"interval", "'1 year 2 months 3 days 04:05:06.5'", `"P1Y2M3DT4H5M6.5S"`},
	{"interval", "'-1 day -00:00:00.25'", `"P-1DT-0.25S"`},
	{"interval", "'0'", `"PT0S"`},
	{"bit", "B'1'", `"1"`},
	{"varbit", "B'0101'", `"0101"`},
	{"json", `'{"a": [1, 2.50, null]}'`, `{"a":[1,2.50,null]}`},
	{"json", `'12345678901234567890'`, `12345678901234567890`},
	{"jsonb", `'["admin", "shop,1"]'`, `["admin","shop,1"]`},
	{"jsonb", `'null'`, `null`},
	{"mood", "'sad'", `"sad"`},
	{"level", "7", `7`}, // a domain is read as its base type
	{"mobile", "'138'", `"138"`},

	{"bytea", `'\x00'`, refusedType},
	{"money", "1", refusedType},
	{"xml", "'<a/>'", refusedType},
	{"_text", "'{a,b}'", refusedType},
	{"_int4", "'{1,2}'", refusedType},
	{"_mood", "'{sad}'", refusedType},
	{"pair", "ROW(1, 'a')", refusedType},
	{"span", "'[1,2)'", refusedType},
	{"tsvector", "'a b'", refusedType},
	{"tsquery", "'a & b'", refusedType},
	{"int4range", "'[1,2)'", refusedType},
	{"int4multirange", "'{[1,2)}'", refusedType},
	{"point", "'(1,2)'", refusedType},
}

// otherPostgresTypes are types with no use in a table of users. They are refused.
var otherPostgresTypes = strings.Fields(`aclitem box circle cid cstring datemultirange daterange gtsvector int2vector int8multirange int8range jsonpath line lseg
	numrange nummultirange oidvector path pg_brin_bloom_summary pg_brin_minmax_multi_summary pg_dependencies pg_lsn pg_mcv_list pg_ndistinct pg_node_tree
	pg_snapshot polygon refcursor regclass regcollation regconfig regdictionary regnamespace regoper regoperator regproc regprocedure regrole regtype tid
	tsmultirange tsrange tstzmultirange tstzrange txid_snapshot xid xid8`)

// ownTypes creates types that an operator might have.
const ownTypes = `CREATE TYPE mood AS ENUM ('sad', 'ok');
	CREATE DOMAIN level AS integer CHECK (VALUE > 0); CREATE DOMAIN mobile AS text;
	CREATE TYPE pair AS (a integer, b text); CREATE TYPE span AS RANGE (subtype = float8)`

// read opens a directory whose query find selects one more column, and logs in.
func read(t *testing.T, f *Tables, column, expression string) (user.User, error) {
	t.Helper()
	d := directoryOf(t, f, fmt.Sprintf("SELECT 1 AS id, %s AS %s FROM (SELECT 1 AS one) x WHERE :phone <> ''", expression, column), "", "SELECT 1 AS id WHERE :id <> ''", "")
	if err := d.Open(t.Context()); err != nil {
		return user.User{}, err
	}
	return user.Checked(d).Login(t.Context(), user.Login{OpenID: "o1", Phone: phone(t, "13800138000")})
}

// wantForm checks the JSON of a column as a member of userInfo and as a claim, and that NULL
// becomes null.
func wantForm(t *testing.T, f *Tables, name, expression, null, want string) {
	t.Helper()
	quote := `"claims.x"`
	if f.MySQL() {
		quote = "`claims.x`"
	}
	for _, column := range []string{"x", quote} {
		u, err := read(t, f, column, expression)
		if want == refusedType {
			if !errors.Is(err, user.ErrMisconfigured) || !strings.Contains(err.Error(), "no unique form") || !strings.Contains(err.Error(), "find") {
				t.Errorf("%s: %v %v, want it refused with the column and the remedy", name, u, err)
			}
			continue
		}
		members := u.Info
		if column != "x" {
			members = u.Claims
		}
		got, e := json.Marshal(members["x"])
		var plain strings.Builder
		enc := json.NewEncoder(&plain)
		enc.SetEscapeHTML(false)
		_ = enc.Encode(members["x"])
		if err != nil || e != nil || strings.TrimSpace(plain.String()) != want {
			t.Errorf("%s as %s: %s, %v %v; want %s", name, column, got, err, e, want)
		}
		if u, err := read(t, f, column, null); err != nil || u.Info["x"] != nil || u.Claims["x"] != nil {
			t.Errorf("%s, NULL: %v %v", name, u, err)
		}
	}
}

func onKind(t *testing.T, kind string, test func(t *testing.T, f *Tables)) {
	dbtest.OnServers(t, func(t *testing.T, k, address string) {
		if k == kind {
			test(t, tablesAt(t, address))
		}
	})
}

// Once, some column types that the driver returns in its own form caused a 503 for everybody, or
// put raw bytes into a header.
func TestPostgresTypesHaveOneForm(t *testing.T) {
	onKind(t, "postgres", func(t *testing.T, f *Tables) {
		for _, statement := range strings.Split(ownTypes, ";") {
			put(t, f, statement)
		}
		for _, c := range postgresForms {
			typ := c.typ
			if typ == "char" {
				typ = `"char"`
			}
			wantForm(t, f, c.typ+" "+c.value, "("+c.value+")::"+typ, "NULL::"+typ, c.want)
		}
		for _, typ := range otherPostgresTypes {
			if typ != "cstring" {
				wantForm(t, f, typ, "NULL::"+typ, "", refusedType)
			}
		}
	})
}

// If a new version of PostgreSQL adds a type, this test fails until the type is listed here.
func TestEveryPostgresTypeIsDecided(t *testing.T) {
	onKind(t, "postgres", func(t *testing.T, f *Tables) {
		decided := make(map[string]bool)
		for _, c := range postgresForms {
			decided[c.typ] = true
		}
		for _, typ := range otherPostgresTypes {
			decided[typ] = true
		}
		var rows [][]any
		err := f.Do(t.Context(), func(tx sqldir.Tx) (err error) {
			_, rows, err = tx.Select(1000, `SELECT typname::text FROM pg_catalog.pg_type
				WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype IN ('b', 'r', 'm') AND typname !~ '^_'`)
			return err
		})
		if err != nil || len(rows) < 60 {
			t.Fatalf("%d types, %v", len(rows), err)
		}
		for _, row := range rows {
			if name := row[0].(string); !decided[name] && name != "unknown" {
				t.Errorf("the type %s is not in postgresForms", name)
			}
		}
	})
}

// mysqlForms lists MariaDB's types, each with a value and the JSON that it must become.
var mysqlForms = []struct{ typ, value, want string }{
	{"TINYINT", "-128", `-128`},
	{"TINYINT UNSIGNED", "255", `255`},
	{"BOOL", "TRUE", `1`},
	{"SMALLINT", "-32768", `-32768`},
	{"SMALLINT UNSIGNED", "65535", `65535`},
	{"MEDIUMINT", "-8388608", `-8388608`},
	{"MEDIUMINT UNSIGNED", "16777215", `16777215`},
	{"INT", "-2147483648", `-2147483648`},
	{"INT UNSIGNED", "4294967295", `4294967295`},
	{"INT(8) ZEROFILL", "7", `7`},
	{"BIGINT", "-9223372036854775808", `-9223372036854775808`},
	{"BIGINT UNSIGNED", "18446744073709551615", `18446744073709551615`},
	{"DECIMAL(30,2)", "1234567890123456789012345678.10", `"1234567890123456789012345678.10"`},
	{"FLOAT", "0.1", `0.1`},
	{"FLOAT", "1000000", `1000000`},
	{"DOUBLE", "1e300", `1e+300`},
	{"DOUBLE", "123456.789", `123456.789`},
	{"DATE", "'2026-03-01'", `"2026-03-01"`},
	{"DATE", "'0000-00-00'", `null`},
	{"DATETIME", "'2026-03-01 12:00:00'", `"2026-03-01 12:00:00"`},
	{"DATETIME(3)", "'2026-03-01 12:00:00.12'", `"2026-03-01 12:00:00.120"`},
	{"DATETIME", "'0000-00-00 00:00:00'", `null`},
	{"DATETIME", "'9999-12-31 23:59:59'", `"9999-12-31 23:59:59"`},
	{"TIMESTAMP NULL", "FROM_UNIXTIME(1772366400)", `"2026-03-01T12:00:00Z"`},
	{"TIMESTAMP(3) NULL", "FROM_UNIXTIME(1772366400.25)", `"2026-03-01T12:00:00.25Z"`},
	{"TIMESTAMP NULL", "'0000-00-00 00:00:00'", `null`},
	{"TIME", "'-838:59:59'", `"-838:59:59"`},
	{"YEAR", "2026", `2026`},
	{"YEAR", "0", `0`},
	{"CHAR(4)", "'a'", `"a"`},
	{"CHAR(4) CHARACTER SET latin1", "'é'", `"é"`},
	{"VARCHAR(9) CHARACTER SET gbk", "'安'", `"安"`},
	{"VARCHAR(9) CHARACTER SET utf8mb4", "'😀'", `"😀"`},
	{"TINYTEXT", "'a'", `"a"`},
	{"TEXT", "'a'", `"a"`},
	{"MEDIUMTEXT", "'a'", `"a"`},
	{"LONGTEXT", "'a'", `"a"`},
	{"ENUM('a','b')", "'b'", `"b"`},
	{"SET('a','b')", "'a,b'", `"a,b"`},
	{"UUID", "'01A20A30-EDDD-71C0-B9F8-BB3F5DE858DB'", `"01a20a30-eddd-71c0-b9f8-bb3f5de858db"`},
	{"INET4", "'192.168.0.1'", `"192.168.0.1"`},
	{"INET6", "'::1'", `"::1"`},
	{"JSON", `'["a"]'`, `"[\"a\"]"`}, // JSON is text in MariaDB

	{"BIT(1)", "b'1'", refusedType}, // see mysqlValue
	{"BIT(64)", "b'1'", refusedType},
	{"BINARY(2)", "x'00ff'", refusedType},
	{"VARBINARY(2)", "x'00ff'", refusedType},
	{"TINYBLOB", "x'00'", refusedType},
	{"BLOB", "x'00'", refusedType},
	{"MEDIUMBLOB", "x'00'", refusedType},
	{"LONGBLOB", "x'00'", refusedType},
	{"GEOMETRY", "POINT(1,2)", refusedType},
	{"POINT", "POINT(1,2)", refusedType},
}

// putIn creates a table with one column and inserts one row, in a session that allows zero dates.
func putIn(t *testing.T, f *Tables, typ, value string) {
	t.Helper()
	put(t, f, "CREATE OR REPLACE TABLE one_column (v "+typ+")")
	err := f.Do(t.Context(), func(tx sqldir.Tx) error {
		for _, statement := range []string{"SET sql_mode = ''", "INSERT INTO one_column VALUES (" + value + ")"} {
			if _, err := tx.Exec(statement); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatalf("%s %s: %v", typ, value, err)
	}
}

// Once, FLOAT caused a 503, BIT(1) put the byte 1 into a header, and a zero date was not treated as
// missing.
func TestMySQLTypesHaveOneForm(t *testing.T) {
	onKind(t, "mysql", func(t *testing.T, f *Tables) {
		for _, c := range mysqlForms {
			putIn(t, f, c.typ, c.value)
			wantForm(t, f, c.typ+" "+c.value, "(SELECT v FROM one_column LIMIT 1)", "(SELECT v FROM one_column WHERE FALSE)", c.want)
		}
	})
}

// Configured queries may compare with NOW(), so the connection keeps its time zone. The absolute
// time of a TIMESTAMP must not depend on it.
func TestMomentsDoNotDependOnTheTimeZone(t *testing.T) {
	dbtest.OnServers(t, func(t *testing.T, kind, address string) {
		f := tablesAt(t, address)
		if kind == "mysql" {
			put(t, f, "CREATE TABLE m (at TIMESTAMP NULL)")
			put(t, f, "INSERT INTO m VALUES (FROM_UNIXTIME(1772366400))")
		} else {
			put(t, f, "CREATE TABLE m (at TIMESTAMPTZ)")
			put(t, f, "INSERT INTO m VALUES (to_timestamp(1772366400))")
		}
		for _, zone := range []string{"+08:00", "-03:30", "+00:00"} {
			set := "SET time_zone = '" + zone + "'"
			if kind == "postgres" {
				set = "SET LOCAL TIME ZONE '" + zone + "'"
			}
			err := f.Do(t.Context(), func(tx sqldir.Tx) error {
				if _, err := tx.Exec(set); err != nil {
					return err
				}
				_, rows, err := tx.Select(1, "SELECT at FROM m")
				if err == nil && fmt.Sprint(rows[0][0]) != "2026-03-01 12:00:00 +0000 UTC" {
					t.Errorf("%s: %v", zone, rows[0][0])
				}
				return err
			})
			if err != nil {
				t.Errorf("%s: %v", zone, err)
			}
		}
	})
}

// An id that is a fraction, bytes or a time identifies no user.
func TestIDsOfOddTypesAreRefusedAtLoad(t *testing.T) {
	dbtest.OnServers(t, func(t *testing.T, kind, address string) {
		f := tablesAt(t, address)
		types := map[string][]string{
			"postgres": {"1.5::float8", "TRUE", "now()", `'\x00'::bytea`, "'1'::money", "'{1}'::int[]", "'{}'::jsonb"},
			"mysql":    {"1.5e0", "NOW()", "CAST('a' AS BINARY)", "DATE(NOW())"},
		}[kind]
		for _, expression := range types {
			d := directoryOf(t, f, "SELECT "+expression+" AS id FROM (SELECT 1 AS one) x WHERE :phone <> ''", "", "SELECT 1 AS id WHERE :id <> ''", "")
			if err := d.Open(t.Context()); !errors.Is(err, user.ErrMisconfigured) || !strings.Contains(err.Error(), `"id"`) {
				t.Errorf("%s: %v", expression, err)
			}
		}
	})
}
