package store

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
)

// Schema returns the SQL that creates the tables in a kind of database ("sqlite", "postgres" or
// "mysql"), for operators who set migrate off. If from is greater than 0, the SQL migrates tables
// that have this version. The database's own client accepts it unchanged.
func Schema(kind, prefix string, from int) (string, error) {
	d := sqldb.DialectOf(kind)
	if d == nil || strings.Contains(kind, ":") {
		return "", fmt.Errorf("unknown kind of database %q: use sqlite, postgres or mysql", kind)
	}
	if prefix == "" {
		prefix = defaultPrefix
	}
	if err := sqldb.CheckPrefix(prefix); err != nil {
		return "", err
	}
	latest := len(migrations)
	if from < 0 || from >= latest {
		return "", fmt.Errorf("there is no migration from version %d: the newest version is %d", from, latest)
	}
	var b strings.Builder
	words := d.Words(prefix, tableNames)
	fmt.Fprintf(&b, "-- The tables of caddy-wx-auth, version %d, for %s.\n", latest, d.Name)
	if d.Done == nil { // all or nothing, if the database can undo schema changes
		b.WriteString("BEGIN;\n")
	}
	for _, statements := range migrations[from:] {
		b.WriteString("\n")
		for _, s := range statements {
			b.WriteString(d.Rewrite(words.Replace(s)))
		}
	}
	version := fmt.Sprintf(d.Bytes, strconv.Itoa(latest))
	if from == 0 {
		b.WriteString(words.Replace("\nINSERT INTO {meta} (name, value) VALUES ('" + versionName + "', " + version + ");\n"))
	} else {
		b.WriteString(words.Replace("\nUPDATE {meta} SET value = " + version + " WHERE name = '" + versionName + "';\n"))
	}
	if d.Done == nil {
		b.WriteString("\nCOMMIT;\n")
	}
	if grants := grantAll(d.Name, prefix); len(grants) > 0 {
		b.WriteString("\n-- If the gateway's user (here: wx) is not the tables' owner, it needs these rights:\n")
		for _, line := range grants {
			b.WriteString("-- " + line + "\n")
		}
	}
	return b.String(), nil
}

// grantAll returns the statements that let a user other than the tables' owner work with them. An
// SQLite file has no users.
func grantAll(kind, prefix string) (lines []string) {
	if kind == "sqlite" {
		return nil
	}
	for _, name := range tableNames {
		lines = append(lines, "GRANT SELECT, INSERT, UPDATE, DELETE ON "+prefix+name+" TO wx;")
	}
	if kind == "postgres" { // the sequence of the only {serial} column
		lines = append(lines, "GRANT USAGE ON SEQUENCE "+prefix+"revocations_seq_seq TO wx;")
	}
	return lines
}
