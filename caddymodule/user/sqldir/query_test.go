package sqldir

import (
	"errors"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

// A parameter becomes a placeholder where the database reads code, but not in literals, names or
// comments.
func TestNamedParametersBecomeTheDatabases(t *testing.T) {
	for name, tc := range map[string]struct {
		text  string
		mysql bool
		want  string // with {n} for placeholder n
		names string
	}{
		"one":                    {"SELECT id FROM m WHERE mobile = :phone", false, "SELECT id FROM m WHERE mobile = {1}", "phone"},
		"twice":                  {":phone, :phone", false, "{1}, {2}", "phone phone"},
		"all":                    {":phone:country:national:openid:unionid:appid:id", false, "{1}{2}{3}{4}{5}{6}{7}", "phone country national openid unionid appid id"},
		"at the end":             {"= :id", false, "= {1}", "id"},
		"cast":                   {"id = :id::bigint", false, "id = {1}::bigint", "id"},
		"cast of a literal":      {"'5'::int = :id", false, "'5'::int = {1}", "id"},
		"assignment":             {"@a:=1, :id", true, "@a:=1, {1}", "id"},
		"slice":                  {"a[1:2] = :id", false, "a[1:2] = {1}", "id"},
		"in a literal":           {"':phone' || :id", false, "':phone' || {1}", "id"},
		"a time":                 {"'12:30:00' < :id", false, "'12:30:00' < {1}", "id"},
		"quote in a literal":     {"'it''s :phone' = :id", false, "'it''s :phone' = {1}", "id"},
		"backslash, MySQL":       {`'\' :phone' = :id`, true, `'\' :phone' = {1}`, "id"},
		"backslash, PostgreSQL":  {`'\' || :id || ''`, false, `'\' || {1} || ''`, "id"},
		"E'…'":                   {`E'\' :phone' = :id`, false, `E'\' :phone' = {1}`, "id"},
		"in a name":              {`"a:phone" = :id`, false, `"a:phone" = {1}`, "id"},
		"in backticks":           {"`a:phone` = :id", true, "`a:phone` = {1}", "id"},
		"in a comment":           {"a -- :phone\n= :id", false, "a -- :phone\n= {1}", "id"},
		"in a comment at end":    {"a = :id -- :phone", false, "a = {1} -- :phone", "id"},
		"in a block":             {"a /* :phone ' */ = :id", false, "a /* :phone ' */ = {1}", "id"},
		"behind #":               {"a # :phone\n= :id", true, "a # :phone\n= {1}", "id"},
		"#>> is an operator":     {"a #>> b = :id", false, "a #>> b = {1}", "id"},
		"$$":                     {"$$ :phone $$ = :id", false, "$$ :phone $$ = {1}", "id"},
		"$tag$":                  {"$a$ :phone $$ $a$ = :id", false, "$a$ :phone $$ $a$ = {1}", "id"},
		"? is an operator":       {"a ? 'x' AND :id", false, "a ? 'x' AND {1}", "id"},
		"semicolon at the end":   {"SELECT :id; \n", false, "SELECT {1}", "id"},
		"semicolon in a literal": {"SELECT ';', :id", false, "SELECT ';', {1}", "id"},
		"beyond ASCII":           {"'中文' AS 名, :id", false, "'中文' AS 名, {1}", "id"},
	} {
		q, err := ParseQuery(tc.text, tc.mysql)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := q.SQL(func(n int) string { return "{" + strconv.Itoa(n) + "}" }); got != tc.want || strings.Join(q.names, " ") != tc.names {
			t.Errorf("%s: got %q with %q, want %q with %q", name, got, q.names, tc.want, tc.names)
		}
	}
}

// An operator writes a query that would log in the wrong user, erase everybody or
// publish every column. It is refused at load, with what to write instead.
func TestMistakenQueriesAreRefused(t *testing.T) {
	const find, check = "SELECT id FROM m WHERE p = :phone", "SELECT id FROM m WHERE id = :id"
	for name, tc := range map[string]struct {
		find, create, check, erase string
		query, says                string
	}{
		"no find":               {"", "", check, "", "find", "missing"},
		"no check":              {find, "", "", "", "check", "missing"},
		"unknown parameter":     {find + " AND x = :name", "", check, "", "find", ":phone"},
		"another case":          {find + " AND x = :Phone", "", check, "", "find", ":phone"},
		"no number":             {"SELECT id FROM m WHERE openid = :openid", "", check, "", "find", ":phone"},
		"national alone":        {"SELECT id FROM m WHERE mobile = :national", "", check, "", "find", ":country"},
		"national in create":    {find, "INSERT INTO m (mobile) VALUES (:national)", check, "", "create", ":country"},
		"no number in create":   {find, "INSERT INTO m (openid) VALUES (:openid)", check, "", "create", ":phone"},
		"number in a literal":   {"SELECT id FROM m WHERE p = ':phone'", "", check, "", "find", ":phone"},
		"not reading":           {"UPDATE m SET x = 1 WHERE p = :phone", "", check, "", "find", "SELECT"},
		"check that writes":     {find, "", "DELETE FROM m WHERE id = :id", "", "check", "SELECT"},
		"all columns":           {"SELECT * FROM m WHERE p = :phone", "", check, "", "find", "columns"},
		"all columns of one":    {"SELECT id, m.* FROM m WHERE p = :phone", "", check, "", "find", "columns"},
		"all columns, distinct": {find, "", "SELECT DISTINCT * FROM m WHERE id = :id", "", "check", "columns"},
		"check of everybody":    {find, "", "SELECT id FROM m", "", "check", ":id"},
		"check by number":       {find, "", "SELECT id FROM m WHERE p = :phone AND id = :id", "", "check", ":phone"},
		"erase of everybody":    {find, "", check, "DELETE FROM m", "erase", ":id"},
		"two statements":        {find, "", check, "DELETE FROM m WHERE id = :id; DELETE FROM n", "erase", "one"},
		"positional":            {"SELECT id FROM m WHERE p = $1 AND :phone = ''", "", check, "", "find", "names"},
		"open quote":            {"SELECT id FROM m WHERE p = :phone AND x = 'a", "", check, "", "find", "closed"},
		"open comment":          {"SELECT id FROM m WHERE p = :phone /* x", "", check, "", "find", "comment"},
		"open $$":               {"SELECT id FROM m WHERE p = :phone AND x = $$a", "", check, "", "find", "$$"},
		"blank":                 {" -- nothing", "", check, "", "find", "empty"},
	} {
		_, err := ParseQueries(tc.find, tc.create, tc.check, tc.erase, false)
		var qe *QueryError
		if !errors.As(err, &qe) || qe.Name != tc.query || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v; want one of %s with %q", name, err, tc.query, tc.says)
		}
	}
	if _, err := ParseQuery("SELECT ?", true); err == nil {
		t.Error("MySQL's ? is accepted")
	}
	for name, good := range map[string][2]string{
		"counted":        {"SELECT id, (SELECT COUNT(*) FROM orders o WHERE o.m = m.id) AS orders, 2 * price AS p FROM m WHERE p = :phone", check},
		"with":           {"WITH x AS (SELECT 1) SELECT id FROM m WHERE p = :phone", check},
		"national":       {"select id from m where mobile = :national and :country = '86'", check},
		"after comments": {"/* team */ SELECT id FROM m WHERE p = :phone", check},
	} {
		if _, err := ParseQueries(good[0], "", good[1], "", false); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A login may have no unionid. Then the query must get NULL and not the empty string, which could
// match a row.
func TestUnknownValuesAreNULL(t *testing.T) {
	q, err := ParseQuery(":phone :id :phone", false)
	if err != nil {
		t.Fatal(err)
	}
	if got := q.args(map[string]string{"phone": "+86", "id": ""}); !reflect.DeepEqual(got, []any{"+86", nil, "+86"}) {
		t.Errorf("%#v", got)
	}
}
