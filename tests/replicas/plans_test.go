package replicas

import (
	"database/sql"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// plan is a statement of the gateway, and how the database executed it.
type plan struct{ statement, how string }

var wholeTable = map[string]*regexp.Regexp{
	"postgres": regexp.MustCompile(`Seq Scan on (wx_auth_\w+)`),
	"mysql":    regexp.MustCompile(`table=(\w+) type=(?:ALL|index) `),
}

// A query without an index is fast in tests and slow with a million users. The test takes the
// binary's statements from the server: PostgreSQL logs the plan of each one; MariaDB writes
// the statements into a table, and the test explains them afterwards.
func TestLargeTablesAreReadByIndex(t *testing.T) {
	t.Parallel()
	for kind, settings := range map[string][]string{
		"postgres": {"-c", "shared_preload_libraries=auto_explain", "-c", "auto_explain.log_min_duration=0", "-c", "autovacuum=off"},
		"mysql":    {"--log-output=TABLE"},
	} {
		t.Run(kind, func(t *testing.T) {
			server := rig.NewServer(t, kind, settings...)
			replicas := rig.NewReplicas(t, server.Database, 2)
			for _, r := range replicas {
				r.Caddy.Stop()
			}
			server.Fill(t, rig.Rounds(50_000, 1_000_000))
			for _, r := range replicas {
				r.Restart(t) // at its start it reads all revocations, which is the whole table
			}

			seen := watchStatements(t, server)
			a, b := replicas[0], replicas[1]
			first := a.MustLogin(t, number)
			again := b.MustLogin(t, number)
			silent := a.Silent(a.WeChat.Open(t, number).Code).Pair(t)
			next := b.Refresh(first.RefreshToken).Pair(t)
			a.Sessions(t, next.Token)
			a.Me(next.Token).Want(t, http.StatusOK)
			endDevice(t, a, silent).Want(t, http.StatusNoContent)
			a.Logout(next.Token, "", false).Want(t, http.StatusNoContent)
			wantEndedEverywhere(t, replicas, next)
			b.Logout(again.Token, "", true).Want(t, http.StatusNoContent)
			wantEndedEverywhere(t, replicas, again)
			plans := seen()

			asked := make(map[string]bool)
			for _, p := range plans {
				for _, table := range rig.LargeTables {
					if strings.Contains(p.statement, table) {
						asked[table] = true
					}
				}
				t.Logf("%s\n%s", p.statement, p.how)
				if m := wholeTable[kind].FindStringSubmatch(p.how); m != nil && slices.ContainsFunc(rig.LargeTables, func(table string) bool { return reads(p.statement, m[1], table) }) {
					t.Errorf("a whole table is read by\n%s\n%s", p.statement, p.how)
				}
			}
			for _, table := range rig.LargeTables {
				if !asked[table] {
					t.Errorf("no statement about %s was seen", table)
				}
			}
		})
	}
}

// reads reports whether name, which a plan uses, is that table in the statement or an
// alias of it.
func reads(statement, name, table string) bool {
	return name == table || strings.Contains(statement, table+" "+name+" ")
}

// watchStatements makes the server record its statements from now on. The returned
// function returns the plans, one per shape of a statement.
func watchStatements(t testing.TB, server *rig.Server) func() []plan {
	t.Helper()
	if server.Kind == "postgres" {
		begin := len(server.Log.String())
		return func() []plan {
			time.Sleep(time.Second) // the log arrives as a stream
			return postgresPlans(server.Log.String()[begin:])
		}
	}
	server.Run(t, "SET GLOBAL general_log = ON")
	return func() (plans []plan) {
		server.Run(t, "SET GLOBAL general_log = OFF")
		rows, err := server.Query("SELECT argument FROM mysql.general_log WHERE command_type IN ('Execute', 'Query') AND argument LIKE '%wx\\_auth\\_%'")
		if err != nil {
			t.Fatal(err)
		}
		shapes := make(map[string]string)
		for rows.Next() {
			var statement string
			if err := rows.Scan(&statement); err != nil {
				t.Fatal(err)
			}
			for _, statement := range strings.Split(statement, ";\n") { // several in one text
				if !strings.HasPrefix(statement, "SELECT") && !strings.HasPrefix(statement, "UPDATE") && !strings.HasPrefix(statement, "DELETE") {
					continue
				}
				if known := shapes[shape(statement)]; known == "" || strings.Contains(known, " ?") {
					shapes[shape(statement)] = statement
				}
			}
		}
		rows.Close()
		for _, statement := range shapes {
			// The server does not record the values of a UNION; these are the feed's.
			statement = strings.NewReplacer("seq > ?", "seq > 1000000000", "- ?", "- 60000").Replace(statement)
			plans = append(plans, plan{statement, explainMySQL(t, server.Database, statement)})
		}
		return plans
	}
}

var value = regexp.MustCompile(`'(?:[^'\\]|\\.|'')*'|\b\d+\b`)

func shape(statement string) string { return value.ReplaceAllString(statement, "?") }

func explainMySQL(t testing.TB, db *rig.Database, statement string) string {
	t.Helper()
	rows, err := db.Query("EXPLAIN " + statement)
	if err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for rows.Next() {
		values, into := make([]sql.NullString, len(names)), make([]any, len(names))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			t.Fatal(err)
		}
		for i, name := range names {
			fmt.Fprintf(&b, "%s=%s ", name, values[i].String)
		}
		b.WriteString("\n")
	}
	return b.String()
}

var explained = regexp.MustCompile(`(?s)plan:\n\tQuery Text: (.*?)\n\t((?:\w[^\n]*\(cost=)[^\n]*(?:\n\t[^\n]*)*)`)

func postgresPlans(log string) (plans []plan) {
	known := make(map[string]bool)
	for _, m := range explained.FindAllStringSubmatch(log, -1) {
		if p := (plan{m[1], m[2]}); strings.Contains(p.statement, "wx_auth_") && !known[p.statement+shape(p.how)] {
			known[p.statement+shape(p.how)] = true
			plans = append(plans, p)
		}
	}
	return plans
}
