package external

import (
	"database/sql"
	"database/sql/driver"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb/dbtest"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user/sqldir"
)

// pieces are expressions for a query to select. A careless parser would take a part of each for a
// parameter, or overlook a parameter.
var pieces = map[string][]string{
	"both": {`'a'`, `'it''s :id'`, `':id'`, `:id`, `'--'`, `'/*'`, `"id"`, `(:phone)`, `1`, `1.5`, `1 -- :id` + "\n", `'a' -- it's` + "\n", `1 /* :id ' */`, `1 /* " -- */`, `:country`, `1- -1`, `'中:id'`},
	"postgres": {`'a\'`, `'\'`, `E'\' :id'`, `e'it''s \\'`, `E'\\\''`, `U&'\0061 :id'`, `B'01'`, `N'\'`, `$$ :id ' $$`, `$a$ $$ :id $a$`, `$中$ :id $中$`, `:id::text`, `'1'::int`,
		`1 /* a /* :id */ ' */`, `1 --:id` + "\r", `(ARRAY[1,2])[1:2]`, `(ARRAY[1,2])[1:(1)]`, `ARRAY[:id, :phone]`, `(ARRAY[ARRAY[1]])[1][1]`, `('{"a":1}'::jsonb ? 'a')`, `('{"a":1}'::jsonb ?| ARRAY[:id])`,
		`('{"a":{"b":1}}'::jsonb #>> '{a,b}')`, `(5 # 3)`, `('x' LIKE'a\')`, `('x' LIKE:id)`, `(2*/* :id */3)`, `'a'` + "\n" + `' :id'`, `make_interval(days := 1)`},
	"mysql": {`'\' :id'`, `"\" :id"`, `":id"`, "`id`", "1 # :id '\n", `1--1`, `1 --` + "\n", `'a\\'`, `N'\' :id'`, `_utf8mb4'\' :id'`, `x'61'`, `("x" LIKE'a\' :id')`, `("x" LIKE:id)`, `(@a:=1)`,
		`1 -- :id` + "\r" + `:id` + "\n", `"it""s :id"`, "(SELECT `a``:id` FROM (SELECT 1 AS `a``:id`) t)", `"$$"`, `1 /* a /+ :id */`},
}

// The servers report how many parameters each query has. If our parser found one too many or too
// few, values would end up in the wrong places.
func TestQueriesAreReadAsTheServersDo(t *testing.T) {
	dbtest.OnServers(t, func(t *testing.T, kind, address string) {
		f := tablesAt(t, address)
		if err := f.Do(t.Context(), func(sqldir.Tx) error { return nil }); err != nil {
			t.Fatal(err)
		}
		conn, err := f.db.Pools().Write.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		choice := append(append([]string(nil), pieces["both"]...), pieces[kind]...)
		random := rand.New(rand.NewPCG(1, 2))
		for i := range 1500 {
			var chosen []string
			if i < len(choice) {
				chosen = choice[i : i+1]
			} else {
				for range 1 + random.IntN(5) {
					chosen = append(chosen, choice[random.IntN(len(choice))])
				}
			}
			text := "SELECT " + strings.Join(chosen, " , ") + " FROM (SELECT 1 AS id) t"
			q, err := sqldir.ParseQuery(text, kind == "mysql")
			if err != nil {
				t.Errorf("%q: %v", text, err)
				continue
			}
			used := 0
			query := q.SQL(func(n int) string {
				used = n
				return f.Placeholder(n)
			})
			if n, err := parametersOf(conn, query); err != nil || n != used {
				t.Errorf("%q has %d parameters by our count, and %d by the server's: %v", text, used, n, err)
			}
		}
	})
}

// parametersOf asks the server how many parameters a query has.
func parametersOf(conn *sql.Conn, query string) (n int, err error) {
	err = conn.Raw(func(c any) error {
		s, err := c.(driver.Conn).Prepare(query)
		if err != nil {
			return err
		}
		n = s.NumInput()
		return s.Close()
	})
	return n, err
}
