package external

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb/dbtest"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user/sqldir"
)

// members is a typical table of an operator, with its own column names, and phone numbers without a
// country.
var members = map[string]string{
	"postgres": `CREATE TABLE members (
		member_no BIGSERIAL PRIMARY KEY,
		mobile VARCHAR(20) NOT NULL UNIQUE,
		nick_name VARCHAR(50) NOT NULL DEFAULT '',
		role TEXT NOT NULL DEFAULT 'member',
		banned BOOLEAN NOT NULL DEFAULT FALSE,
		wx_openid VARCHAR(64),
		joined TIMESTAMPTZ NOT NULL DEFAULT '2026-01-02 03:04:05+00')`,
	"mysql": `CREATE TABLE members (
		member_no BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
		mobile VARCHAR(20) NOT NULL UNIQUE,
		nick_name VARCHAR(50) NOT NULL DEFAULT '',
		role VARCHAR(20) NOT NULL DEFAULT 'member',
		banned TINYINT(1) NOT NULL DEFAULT 0,
		wx_openid VARCHAR(64),
		joined DATETIME NOT NULL DEFAULT '2026-01-02 03:04:05') DEFAULT CHARACTER SET utf8mb4`,
}

const memberColumns = `SELECT member_no AS id, nick_name AS "nickName", role AS "claims.role", banned AS disabled, joined FROM members `

const (
	findMember   = memberColumns + `WHERE mobile = :national AND :country = '86' OR wx_openid = :openid`
	createMember = `INSERT INTO members (mobile, nick_name) SELECT :national, 'new' FROM (SELECT 1 AS one) x WHERE :country = '86'`
	checkMember  = memberColumns + `WHERE member_no = :id`
	eraseMember  = `DELETE FROM members WHERE member_no = :id`
)

// TestServersLeftOut lists the databases that the tests have skipped.
func TestServersLeftOut(t *testing.T) { dbtest.LeftOut(t) }

func phone(t *testing.T, national string) user.Phone {
	t.Helper()
	p, err := user.ParsePhone("86", national)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// onMembers runs a test over a members table on each server.
func onMembers(t *testing.T, test func(t *testing.T, f *Tables)) {
	dbtest.OnServers(t, func(t *testing.T, kind, address string) {
		f := tablesAt(t, address)
		put(t, f, members[kind])
		test(t, f)
	})
}

func tablesAt(t *testing.T, address string) *Tables {
	t.Helper()
	f, err := New(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func put(t *testing.T, f *Tables, query string) {
	t.Helper()
	err := f.Do(t.Context(), func(tx sqldir.Tx) error {
		_, err := tx.Exec(query)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func directoryOf(t *testing.T, f *Tables, find, create, check, erase string) *sqldir.Directory {
	t.Helper()
	q, err := sqldir.ParseQueries(find, create, check, erase, f.MySQL())
	if err != nil {
		t.Fatal(err)
	}
	return &sqldir.Directory{DB: f, Queries: q}
}

// An operator keeps the users in a table of their own. The queries find, create, check and erase
// them.
func TestOwnTableIsADirectory(t *testing.T) {
	onMembers(t, func(t *testing.T, f *Tables) {
		d := directoryOf(t, f, findMember, createMember, checkMember, eraseMember)
		if err := d.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		put(t, f, `INSERT INTO members (mobile, nick_name, role) VALUES ('13800138000', '安安', 'admin')`)
		joined := "2026-01-02T03:04:05Z"
		if f.MySQL() {
			joined = "2026-01-02 03:04:05"
		}
		login := user.Login{ID: "1", AppID: "wx1", OpenID: "o1", Phone: phone(t, "13800138000")}
		got, err := d.Login(t.Context(), login)
		want := user.User{ID: "1", Info: map[string]any{"nickName": "安安", "joined": joined}, Claims: map[string]any{"role": "admin"}}
		if err == nil {
			if at, ok := got.Info["joined"].(string); ok && !f.MySQL() {
				got.Info["joined"] = strings.Replace(at, "+00:00", "Z", 1)
			}
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("a member: %#v, %v; want %#v", got, err, want)
		}
		login.Phone = phone(t, "13900139000")
		made, err := d.Login(t.Context(), login)
		if err != nil || !made.New || made.Info["nickName"] != "new" {
			t.Fatalf("somebody new: %+v, %v", made, err)
		}
		if again, err := d.Login(t.Context(), login); err != nil || again.New || again.ID != made.ID {
			t.Errorf("again: %+v, %v", again, err)
		}
		if u, err := d.Login(t.Context(), user.Login{AppID: "wx1", OpenID: "o1", UserID: made.ID}); err != nil || u.ID != made.ID {
			t.Errorf("silent: %+v, %v", u, err)
		}
		if _, err := d.Login(t.Context(), user.Login{AppID: "wx1", OpenID: "o1"}); !errors.Is(err, user.ErrUnknown) {
			t.Errorf("silent, of nobody: %v", err)
		}
		put(t, f, `UPDATE members SET wx_openid = 'o1' WHERE member_no = 1`)
		if u, err := d.Login(t.Context(), user.Login{AppID: "wx1", OpenID: "o1"}); err != nil || u.ID != "1" {
			t.Errorf("silent, known to the table: %+v, %v", u, err)
		}
		put(t, f, `UPDATE members SET banned = TRUE WHERE member_no = 1`)
		if u, err := d.Check(t.Context(), "1"); err != nil || !u.Disabled {
			t.Errorf("disabled: %+v, %v", u, err)
		}
		for range 2 {
			if err := d.Erase(t.Context(), made.ID); err != nil {
				t.Error(err)
			}
		}
		if _, err := d.Check(t.Context(), made.ID); !errors.Is(err, user.ErrUnknown) {
			t.Errorf("erased: %v", err)
		}
	})
}

// The same national number in another country belongs to another person.
func TestNumberInAnotherCountry(t *testing.T) {
	onMembers(t, func(t *testing.T, f *Tables) {
		d := directoryOf(t, f, findMember, createMember, checkMember, "")
		put(t, f, `INSERT INTO members (mobile) VALUES ('15112345678')`)
		german, err := user.ParsePhone("49", "15112345678")
		if err != nil {
			t.Fatal(err)
		}
		if u, err := d.Login(t.Context(), user.Login{OpenID: "o1", Phone: german}); !errors.Is(err, user.ErrRegistrationClosed) {
			t.Errorf("%+v, %v", u, err)
		}
	})
}

// An id from before the table was used, or a made-up id, matches no user: MySQL reads "1-a" as 1,
// and PostgreSQL returns an error.
func TestIDOfAnotherKindIsNobodys(t *testing.T) {
	onMembers(t, func(t *testing.T, f *Tables) {
		d := directoryOf(t, f, findMember, "", checkMember, eraseMember)
		put(t, f, `INSERT INTO members (mobile) VALUES ('13800138000')`)
		for _, id := range []string{"1-a", "01", "1 ", "1e0", "01a20a30-eddd-71c0-b9f8-bb3f5de858db", "x", "", "99999999999999999999999"} {
			if u, err := d.Check(t.Context(), id); !errors.Is(err, user.ErrUnknown) {
				t.Errorf("%q: %+v, %v", id, u, err)
			}
		}
		if err := d.Erase(t.Context(), "x"); err != nil {
			t.Error(err)
		}
		if u, err := d.Check(t.Context(), "1"); err != nil || u.ID != "1" {
			t.Errorf("%+v, %v", u, err)
		}
	})
}

// A user who taps twice logs in twice at the same time. Only one user is created.
func TestFirstLoginsAtOnceMakeOneMember(t *testing.T) {
	onMembers(t, func(t *testing.T, f *Tables) {
		d := directoryOf(t, f, findMember, createMember, checkMember, "")
		ids, made := make([]string, 20), make([]bool, 20)
		var wg sync.WaitGroup
		for i := range ids {
			wg.Go(func() {
				u, err := d.Login(t.Context(), user.Login{OpenID: fmt.Sprint("o", i), Phone: phone(t, "13800138000")})
				if err != nil {
					t.Error(err)
				}
				ids[i], made[i] = u.ID, u.New
			})
		}
		wg.Wait()
		news := 0
		for i := range ids {
			if made[i] {
				news++
			}
			if ids[i] != ids[0] || ids[i] == "" {
				t.Errorf("ids %q", ids)
				break
			}
		}
		if news != 1 {
			t.Errorf("%d of them were new", news)
		}
	})
}

// An operator who adds the users by other means configures no query create. Then an unknown number
// does not become a user.
func TestWithoutCreateNobodyRegisters(t *testing.T) {
	onMembers(t, func(t *testing.T, f *Tables) {
		d := directoryOf(t, f, findMember, "", checkMember, "")
		if _, err := d.Login(t.Context(), user.Login{OpenID: "o1", Phone: phone(t, "13800138000")}); !errors.Is(err, user.ErrRegistrationClosed) {
			t.Error(err)
		}
		if err := d.Erase(t.Context(), "1"); err != nil {
			t.Error(err)
		}
	})
}

// A mistyped query makes the load of the configuration fail, with the query's name. It must not
// fail only at the first login.
func TestWrongQueryIsNamedAtStart(t *testing.T) {
	onMembers(t, func(t *testing.T, f *Tables) {
		put(t, f, `INSERT INTO members (mobile) VALUES ('13800138000')`)
		for name, tc := range map[string]struct{ find, create, check, erase, says string }{
			"syntax":          {"SELECT member_no AS id FORM members WHERE mobile = :phone", "", checkMember, "", "query find"},
			"no such column":  {"SELECT member_no AS id FROM members WHERE phone = :phone", "", checkMember, "", "query find"},
			"no such table":   {findMember, "INSERT INTO nobody (mobile) VALUES (:phone)", checkMember, "", "query create"},
			"no column id":    {"SELECT member_no FROM members WHERE mobile = :phone", "", checkMember, "", "no column id"},
			"no id in check":  {findMember, "", "SELECT member_no FROM members WHERE member_no = :id", "", "check has no column id"},
			"check, no table": {findMember, "", "SELECT id FROM nobody WHERE id = :id", "", "query check"},
			"erase":           {findMember, "", checkMember, "DELETE FROM nobody WHERE id = :id", "query erase"},
		} {
			err := directoryOf(t, f, tc.find, tc.create, tc.check, tc.erase).Open(t.Context())
			if !errors.Is(err, user.ErrMisconfigured) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%s: %v", name, err)
			}
		}
		// An error that depends on the rows can appear only at a login.
		login := user.Login{OpenID: "o1", Phone: phone(t, "13900139000")}
		for name, tc := range map[string]struct{ find, create, says string }{
			"two rows":    {`SELECT 1 AS id FROM members WHERE :phone <> '' UNION ALL SELECT 2`, "", "more than one"},
			"id is NULL":  {`SELECT NULL AS id FROM members WHERE :phone <> ''`, "", "id of find"},
			"lost":        {findMember, `INSERT INTO members (mobile) VALUES (:phone)`, "does not find"},
			"in the way":  {findMember, `INSERT INTO members (mobile) SELECT '13800138000' FROM members WHERE :phone <> ''`, "unique index"},
			"NOT NULL":    {findMember, `INSERT INTO members (mobile, nick_name) VALUES (:phone, NULL)`, "query create"},
			"number, not": {findMember, `INSERT INTO members (mobile, member_no) VALUES (:phone, CONCAT('x', :phone))`, "query create"},
		} {
			_, err := directoryOf(t, f, tc.find, tc.create, checkMember, "").Login(t.Context(), login)
			if f.MySQL() || name != "number, not" { // PostgreSQL refuses the column's type
				if !errors.Is(err, user.ErrMisconfigured) || !strings.Contains(err.Error(), tc.says) {
					t.Errorf("%s: %v", name, err)
				}
			}
			if err == nil || strings.Contains(err.Error(), "139001") || strings.Contains(err.Error(), "138001") {
				t.Errorf("%s: the error contains a number: %v", name, err)
			}
		}
		if rows := rowsOf(t, f); rows != 1 {
			t.Errorf("%d members: a refused login left one behind", rows)
		}
	})
}

func rowsOf(t *testing.T, f *Tables) (n int) {
	t.Helper()
	err := f.Do(t.Context(), func(tx sqldir.Tx) error {
		_, rows, err := tx.Select(100, `SELECT member_no FROM members`)
		n = len(rows)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// The database restarts. Logins wait for it, and the error does not blame the configuration.
func TestDatabaseAwayIsNoMistake(t *testing.T) {
	for _, address := range []string{"postgres://a:geheim123@127.0.0.1:1/x", "mysql://a:geheim123@127.0.0.1:1/x"} {
		f := tablesAt(t, address)
		d := directoryOf(t, f, findMember, "", checkMember, "")
		_, err := d.Login(t.Context(), user.Login{OpenID: "o1", Phone: phone(t, "13800138000")})
		if !errors.Is(err, sqldir.ErrUnavailable) || errors.Is(err, user.ErrMisconfigured) || strings.Contains(err.Error(), "store ") || strings.Contains(err.Error(), "geheim123") {
			t.Errorf("%s: %v", address, err)
		}
	}
	onMembers(t, func(t *testing.T, f *Tables) {
		slow := map[bool]string{false: "pg_sleep(30)::text", true: "SLEEP(30)"}[f.MySQL()]
		d := directoryOf(t, f, `SELECT 1 AS id WHERE :phone <> '' AND `+slow+` = 'x'`, "", checkMember, "")
		ctx, cancel := context.WithTimeout(t.Context(), sqldir.Timeout/10)
		defer cancel()
		_, err := d.Login(ctx, user.Login{OpenID: "o1", Phone: phone(t, "13800138000")})
		if !errors.Is(err, sqldir.ErrUnavailable) {
			t.Error(err)
		}
		if _, err := d.Check(t.Context(), "1"); !errors.Is(err, user.ErrUnknown) {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// Only the operator can fix a wrong password. No error repeats it.
func TestWrongPasswordIsMisconfigured(t *testing.T) {
	dbtest.OnServers(t, func(t *testing.T, kind, address string) {
		wrong := strings.Replace(address, "root@", "nobody_here:geheim123@", 1)
		_, err := directoryOf(t, tablesAt(t, wrong), findMember, "", checkMember, "").Check(t.Context(), "1")
		if err == nil || strings.Contains(err.Error(), "geheim123") {
			t.Error(err)
		}
		// The tests' PostgreSQL may trust every client. Then the role does not exist.
		if !errors.Is(err, user.ErrMisconfigured) {
			t.Error(err)
		}
	})
}

// External tables in SQLite are refused: two programs that write to one SQLite file lock each other
// out.
func TestNoOwnTableInSQLite(t *testing.T) {
	if _, err := New("sqlite:/x.db"); err == nil || !strings.Contains(err.Error(), "postgres://") {
		t.Error(err)
	}
}
