package store

import (
	"fmt"
	"strings"
	"testing"
)

// An old version must not write to tables that a newer version has migrated.
func TestNewerSchemaIsRefused(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		execute(t, s, `UPDATE {meta} SET value = ? WHERE name = 'schema_version'`, []byte(fmt.Sprint(len(migrations)+1)))
		for _, migrate := range []bool{true, false} {
			db := open(Options{})
			s := db.With(testKeys(t, 1))
			if !migrate {
				s = db.WithTables(testKeys(t, 1))
			}
			err := s.Open(t.Context())
			if !isPermanent(err, ErrSchema) || !strings.Contains(err.Error(), "newer") {
				t.Errorf("migrate %v: %v", migrate, err)
			}
		}
	})
}

// With `migrate off` the tables must exist and be complete. If not, the error must name what is
// missing.
func TestMigrateOffVerifiesTheTables(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		if err := open(defaults).WithTables(testKeys(t, 1)).Open(t.Context()); !isPermanent(err, ErrSchema) {
			t.Fatalf("no tables: %v", err)
		}
		s := started(t, open)
		if err := open(defaults).WithTables(testKeys(t, 1)).Open(patient(t)); err != nil {
			t.Fatalf("all tables: %v", err)
		}
		execute(t, s, `ALTER TABLE {sessions} DROP COLUMN address`)
		if err := open(defaults).WithTables(testKeys(t, 1)).Open(t.Context()); !isPermanent(err, ErrSchema) || !strings.Contains(err.Error(), "sessions") {
			t.Fatalf("a missing column: %v", err)
		}
	})
}

// The schema that the command prints must be accepted with `migrate off`.
func TestPrintedSchemaIsWhatMigrateOffAccepts(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		db := open(Options{Prefix: "own_"})
		text, err := Schema(db.sql.Dialect.Name, "own_", 0)
		if err != nil {
			t.Fatal(err)
		}
		// Any handle can run it. This one migrates under another prefix.
		other := open(Options{Prefix: "other_"}).With(testKeys(t, 2))
		if err := other.Open(patient(t)); err != nil {
			t.Fatal(err)
		}
		client, err := other.db.sql.Pools().Write.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for statement := range strings.SplitAfterSeq(text, ";\n") {
			if strings.TrimSpace(statement) == "" {
				continue
			}
			if _, err := client.ExecContext(t.Context(), statement); err != nil {
				t.Fatalf("%s: %v", statement, err)
			}
		}
		if err := client.Close(); err != nil {
			t.Fatal(err)
		}
		if err := db.WithTables(testKeys(t, 1)).Open(patient(t)); err != nil {
			t.Fatal(err)
		}
	})
}
