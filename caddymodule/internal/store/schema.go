package store

import (
	"fmt"
	"strconv"
	"strings"
)

// Schema returns the SQL that creates the tables in a kind of database ("sqlite", "postgres" or
// "mysql"), for operators who set migrate off. If from is greater than 0, the SQL migrates tables
// that have this version. The database's own client accepts it unchanged.
func Schema(kind, prefix string, from int) (string, error) {
	d := dialects[kind]
	if d == nil {
		return "", fmt.Errorf("unknown kind of database %q: use sqlite, postgres or mysql", kind)
	}
	if prefix == "" {
		prefix = defaultPrefix
	}
	if err := CheckPrefix(prefix); err != nil {
		return "", err
	}
	latest := len(migrations)
	if from < 0 || from >= latest {
		return "", fmt.Errorf("there is no migration from version %d: the newest version is %d", from, latest)
	}
	var b strings.Builder
	words := d.replacer(prefix)
	fmt.Fprintf(&b, "-- The tables of caddy-wx-auth, version %d, for %s.\n", latest, d.name)
	if d.done == nil { // all or nothing, if the database can undo schema changes
		b.WriteString("BEGIN;\n")
	}
	for _, statements := range migrations[from:] {
		b.WriteString("\n")
		for _, s := range statements {
			b.WriteString(d.rewrite(words.Replace(s)))
		}
	}
	version := fmt.Sprintf(d.bytes, strconv.Itoa(latest))
	if from == 0 {
		b.WriteString(words.Replace("\nINSERT INTO {meta} (name, value) VALUES ('" + versionName + "', " + version + ");\n"))
	} else {
		b.WriteString(words.Replace("\nUPDATE {meta} SET value = " + version + " WHERE name = '" + versionName + "';\n"))
	}
	if d.done == nil {
		b.WriteString("\nCOMMIT;\n")
	}
	if d.grants != nil {
		b.WriteString("\n-- If the gateway's user (here: wx) is not the tables' owner, it needs these rights:\n")
		for _, line := range d.grants(prefix) {
			b.WriteString("-- " + line + "\n")
		}
	}
	return b.String(), nil
}

// CheckPrefix returns an error for a prefix that table names cannot have.
func CheckPrefix(prefix string) error {
	if !prefixForm.MatchString(prefix) {
		return prefixError(prefix)
	}
	return nil
}

func prefixError(prefix string) error {
	return fmt.Errorf("table prefix %q: use up to 31 lower-case letters, digits and underscores", prefix)
}

// grantEach returns one statement for each table.
func grantEach(prefix, format string) (lines []string) {
	for _, name := range tableNames {
		lines = append(lines, fmt.Sprintf(format, prefix+name))
	}
	return lines
}
