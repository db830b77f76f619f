package sqldir

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// reference finds the parameters of a query independently of the scanner. It uses one regular
// expression for each database, whose alternatives match the tokens.
func reference(text string, mysql bool) (names []string) {
	form := postgresTokens
	if mysql {
		form = mysqlTokens
	}
	for _, token := range form.FindAllString(text, -1) {
		if len(token) > 1 && token[0] == ':' && token[1] != ':' && token[1] != '=' {
			names = append(names, token[1:])
		}
	}
	return names
}

const (
	innermost = `/\*(?:[^*/]|\*+[^*/]|/+[^*/])*\*+/`
	sqlWord   = `[A-Za-z_\x{80}-\x{10ffff}][A-Za-z0-9_$\x{80}-\x{10ffff}]*`
	sqlNumber = `[0-9][A-Za-z0-9_$.\x{80}-\x{10ffff}]*`
	sqlColon  = `::|:=|:[A-Za-z_][A-Za-z0-9_]*`
)

var (
	postgresTokens = regexp.MustCompile(`(?s)--[^\n\r]*|` + innermost + `|[eE]'(?:[^'\\]|''|\\.)*'|'[^']*'|"[^"]*"|` +
		`\$\$.*?\$\$|\$a\$.*?\$a\$|` + sqlWord + `|` + sqlNumber + `|` + sqlColon + `|.`)
	mysqlTokens = regexp.MustCompile(`(?s)--\n|--[\x00-\x09\x0b-\x20\x7f][^\n]*|--$|#[^\n]*|/\*.*?\*/|'(?:[^'\\]|''|\\.)*'|"(?:[^"\\]|""|\\.)*"|` +
		"`[^`]*`|" + sqlWord + `|` + sqlNumber + `|` + sqlColon + `|.`)
)

// If a parameter inside a literal is replaced, a client's value becomes SQL. If a parameter outside
// of a literal is not replaced, the query finds the wrong row.
func FuzzQuery(f *testing.F) {
	for _, text := range []string{
		`SELECT id FROM m WHERE p LIKE'a\' AND x = :phone`, `SELECT E'\'' , :id, 'it''s' -- :phone` + "\n" + `/* :id */ :country`,
		`$a$ :id $$ $a$ :phone $$ $a$ $$`, "`a:id` # :phone\n, :id", `"a\":id" = :id`, `5--:id`, `e'it''s \' :id' :phone`, `a[1:2] ARRAY[:id, [:phone]] a[:id]`,
		`:id::text :=:phone`, "a -- x\r:id\n:phone", `1e'\':id'`, `LIKE:phone`, `/* a /* :id */ :phone`, `/*! :id */`, `U&'\' :id`, `_utf8'\':id'`,
	} {
		f.Add(text, true)
		f.Add(text, false)
	}
	f.Fuzz(func(t *testing.T, text string, mysql bool) {
		q, err := ParseQuery(text, mysql)
		if err != nil {
			return
		}
		// A regular expression cannot match nested comments and arbitrary tags.
		if !mysql && (strings.Count(text, "/*") > 1 || strings.Contains(strings.NewReplacer("$$", "", "$a$", "").Replace(text), "$")) {
			return
		}
		if want := reference(text, mysql); !slices.Equal(q.names, want) {
			t.Errorf("%q (MySQL %v): parameters %q, want %q", text, mysql, q.names, want)
		}
		// Nothing but the parameters may change.
		back := q.SQL(func(n int) string { return ":" + q.names[n-1] })
		if squeezed(back) != squeezed(text) {
			t.Errorf("%q became %q", text, back)
		}
	})
}

// squeezed removes what may differ: white space, and a semicolon at the end.
func squeezed(text string) string {
	return strings.TrimRight(strings.Map(func(r rune) rune {
		if r <= ' ' {
			return -1
		}
		return r
	}, text), ";")
}

// Once, the scanner misread the end of the literal in LIKE'a\'. It took a parameter after it for
// text, but to PostgreSQL it was SQL. Each row has a query, and how each server reads it.
func TestQueriesAsTheServersReadThem(t *testing.T) {
	const blocked = "refused"
	for _, tc := range []struct{ text, postgres, mysql string }{
		{`x LIKE'a\' AND :id <> ''`, `x LIKE'a\' AND {1} <> ''`, blocked},
		{`x LIKE'a\'' AND :id <> '`, `x LIKE'a\'' AND :id <> '`, blocked},
		{`E'it''s \' :id' = :id`, `E'it''s \' :id' = {1}`, `E'it''s \' :id' = {1}`},
		{`e'a' 'b'`, blocked, `e'a' 'b'`},
		{"E'a'\n'\\' :id'", blocked, "E'a'\n'\\' :id'"},
		{"E'a' -- it's\n = :id", "E'a' -- it's\n = {1}", "E'a' -- it's\n = {1}"},
		{`likE'a\' = :id`, `likE'a\' = {1}`, blocked},
		{`1E'a\' = :id`, blocked, blocked},
		{`U&'\' = :id`, `U&'\' = {1}`, blocked},
		{`/* a /* b */ :phone */ :id`, `/* a /* b */ :phone */ {1}`, blocked},
		{`/* a /* b */ :id`, blocked, blocked},
		{`1 /*! :id */`, `1 /*! :id */`, blocked},
		{`1 /*M!100000 :id */`, `1 /*M!100000 :id */`, blocked},
		{"1 -- a\r:id", "1 -- a\r{1}", "1 -- a\r:id"},
		{"--:phone\n:id", "--:phone\n{1}", "--{1}\n{2}"},
		{"1 #:id\n", "1 #{1}\n", "1 #:id\n"},
		{"`:id`", blocked, "`:id`"},
		{"`a``:id`, :id", blocked, "`a``:id`, {1}"},
		{`"a\":id"`, blocked, `"a\":id"`},
		{`"a"":id" = :id`, `"a"":id" = {1}`, `"a"":id" = {1}`},
		{`$中$ :id $中$ :id`, `$中$ :id $中$ {1}`, `$中$ {1} $中$ {2}`},
		{`a$b$ :id $b$`, blocked, `a$b$ {1} $b$`},
		{`x LIKE:id`, `x LIKE {1}`, `x LIKE{1}`},
		{`:id中`, blocked, blocked},
		{`:id$`, blocked, blocked},
		{`:中`, blocked, blocked},
		{`a[1:2] a[ 1 : id ] a[(:id)]`, `a[1:2] a[ 1 : id ] a[({1})]`, `a[1:2] a[ 1 : id ] a[({1})]`},
		{`a[1:id]`, blocked, blocked},
		{`a[:id]`, blocked, blocked},
		{`ARRAY[:id, :phone]`, `ARRAY[{1}, {2}]`, `ARRAY[{1}, {2}]`},
		{`array [[:id], [:phone]]`, `array [[{1}], [{2}]]`, `array [[{1}], [{2}]]`},
		{`ARRAY[a[:id]]`, blocked, blocked},
		{`a ?| :id`, `a ?| {1}`, blocked},
		{"a\x00:id", blocked, blocked},
		{"'\xff' = :id", blocked, blocked},
	} {
		for mysql, want := range map[bool]string{false: tc.postgres, true: tc.mysql} {
			q, err := ParseQuery(tc.text, mysql)
			got := blocked
			if err == nil {
				got = q.SQL(func(n int) string { return "{" + strconv.Itoa(n) + "}" })
			}
			if got != want {
				t.Errorf("%q (MySQL %v): %q, %v; want %q", tc.text, mysql, got, err, want)
			}
		}
	}
}
