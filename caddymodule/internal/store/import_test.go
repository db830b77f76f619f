package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/importer"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

func imported(t *testing.T, s *Store, rule user.NewOpenID, rows ...importer.Row) []importer.Outcome {
	t.Helper()
	return importedInto(t, s, rule, rows...)
}

func importedInto(t *testing.T, s importer.Store, rule user.NewOpenID, rows ...importer.Row) []importer.Outcome {
	t.Helper()
	out, err := s.Import(t.Context(), rows, rule)
	if err != nil {
		t.Fatal(err)
	}
	if len(out) != len(rows) {
		t.Fatalf("%d outcomes of %d rows", len(out), len(rows))
	}
	return out
}

// An imported user can log in silently, as after a phone login.
func TestImportedUserIsKnownAsAfterALogin(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		number := phone(t, "13800138000")
		rows := []importer.Row{
			{AppID: "wx1", OpenID: "o1", UnionID: "n1", Phone: number},
			{AppID: "wx2", OpenID: "o2", Phone: number}, // the same user in another app
			{AppID: "wx1", OpenID: "o3", Phone: phone(t, "13800138001"), UserID: "theirs-7"},
			{AppID: "wx2", OpenID: "o4", UserID: "theirs-7"},
		}
		for _, o := range imported(t, s, user.Replace, rows...) {
			if o.Refused != nil || !o.Bound {
				t.Errorf("%+v", o)
			}
		}
		found, err := s.Users(false, settings).Login(t.Context(), user.Login{Phone: number})
		if err != nil || found.Phone != number || found.New {
			t.Fatalf("%+v %v", found, err)
		}
		for _, want := range []user.Binding{
			{AppID: "wx1", OpenID: "o1", UnionID: "n1", UserID: found.ID, PhoneAt: now},
			{AppID: "wx2", OpenID: "o2", UserID: found.ID, PhoneAt: now},
			{AppID: "wx1", OpenID: "o3", UserID: "theirs-7", PhoneAt: now},
			{AppID: "wx2", OpenID: "o4", UserID: "theirs-7", PhoneAt: now},
		} {
			if b, _, err := s.Binding(t.Context(), want.AppID, want.OpenID); err != nil || b != want {
				t.Errorf("binding %+v, want %+v: %v", b, want, err)
			}
		}
		if u, err := s.Users(false, settings).Login(t.Context(), user.Login{Phone: phone(t, "13800138001")}); err != nil || u.ID != "theirs-7" {
			t.Errorf("%+v %v", u, err)
		}

		// Importing the same rows again writes nothing, and renews no binding.
		before := dump(t, s)
		later := open(Options{Now: func() time.Time { return now.Add(50 * 24 * time.Hour) }}).With(testKeys(t, 1))
		for _, o := range imported(t, later, user.Replace, rows...) {
			if o != (importer.Outcome{}) {
				t.Errorf("again: %+v", o)
			}
		}
		if after := dump(t, s); after != before {
			t.Errorf("written again:\n%s\nbefore:\n%s", after, before)
		}
		// A unionid that was missing before is added.
		rows[1].UnionID = "n1"
		imported(t, later, user.Replace, rows[1])
		if b, _, err := s.Binding(t.Context(), "wx2", "o2"); err != nil || b.UnionID != "n1" || !b.PhoneAt.Equal(now) {
			t.Errorf("%+v %v", b, err)
		}
	})
}

// A repeated or contradicting import must not change known users.
func TestImportChangesNoKnownUser(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		users := s.Users(true, settings)
		var known []user.User
		for i := range 3 {
			u, err := users.Login(t.Context(), user.Login{Phone: phone(t, fmt.Sprintf("1380013800%d", i))})
			if err != nil {
				t.Fatal(err)
			}
			known = append(known, u)
		}
		logIn(t, s, user.Binding{AppID: "wx1", OpenID: "o0", UnionID: "n0", UserID: known[0].ID, PhoneAt: now}, user.Replace, now)
		logIn(t, s, user.Binding{AppID: "wx1", OpenID: "o1", UserID: known[1].ID, PhoneAt: now}, user.Replace, now)
		// The number has moved to another WeChat account. The file must not let the former openid
		// in again.
		logIn(t, s, user.Binding{AppID: "wx1", OpenID: "o1new", UserID: known[1].ID, PhoneAt: now}, user.Replace, now)
		if err := users.Erase(t.Context(), known[2].ID); err != nil {
			t.Fatal(err)
		}
		before := dump(t, s)
		for name, c := range map[string]struct {
			row  importer.Row
			want error
		}{
			"the number is another user's":       {importer.Row{AppID: "wx1", OpenID: "x", Phone: known[0].Phone, UserID: "theirs"}, importer.ErrPhoneTaken},
			"the user has another number":        {importer.Row{AppID: "wx1", OpenID: "o0", Phone: phone(t, "13900139000"), UserID: known[0].ID}, importer.ErrOtherPhone},
			"nobody, without a number":           {importer.Row{AppID: "wx1", OpenID: "x", UserID: "theirs"}, importer.ErrNoPhone},
			"erased":                             {importer.Row{AppID: "wx1", OpenID: "x", Phone: known[2].Phone, UserID: known[2].ID}, importer.ErrErased},
			"the openid is another user's":       {importer.Row{AppID: "wx1", OpenID: "o0", Phone: known[1].Phone}, importer.ErrOpenIDTaken},
			"the openid is not a new user's":     {importer.Row{AppID: "wx1", OpenID: "o0", Phone: phone(t, "13900139000")}, importer.ErrOpenIDTaken},
			"the unionid is another user's":      {importer.Row{AppID: "wx2", OpenID: "x", UnionID: "n0", Phone: phone(t, "13900139000")}, importer.ErrUnionIDTaken},
			"an openid that a login has dropped": {importer.Row{AppID: "wx1", OpenID: "o1", Phone: known[1].Phone}, importer.ErrOtherOpenID},
		} {
			if o := imported(t, s, user.Replace, c.row)[0]; !errors.Is(o.Refused, c.want) || o.NewUser || o.Bound {
				t.Errorf("%s: %+v", name, o)
			}
		}
		if after := dump(t, s); after != before {
			t.Errorf("written for refused rows:\n%s\nbefore:\n%s", after, before)
		}
		// With the rule keep, users may have several openids, so the former one is imported.
		if o := imported(t, s, user.Keep, importer.Row{AppID: "wx1", OpenID: "o1", Phone: known[1].Phone})[0]; o.Refused != nil || !o.Bound {
			t.Errorf("keep: %+v", o)
		}
		// The same holds within a batch: the second row finds the user of the first.
		fresh := phone(t, "13900139001")
		both := imported(t, s, user.Replace, importer.Row{AppID: "wx1", OpenID: "x1", Phone: fresh}, importer.Row{AppID: "wx1", OpenID: "x2", Phone: fresh},
			importer.Row{AppID: "wx1", OpenID: "x1", Phone: fresh})
		if both[0].Refused != nil || !errors.Is(both[1].Refused, importer.ErrOtherOpenID) || both[2] != (importer.Outcome{}) {
			t.Errorf("%+v", both)
		}
	})
}

// With an external directory, an import binds openids to its users and creates none.
func TestImportForAnExternalDirectory(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		number := phone(t, "13800138000")
		rows := []importer.Row{
			{AppID: "wx1", OpenID: "o1", UnionID: "n1", UserID: "member-7"},
			{AppID: "wx2", OpenID: "o2", Phone: number, UserID: "member-7"},
			{AppID: "wx1", OpenID: "o3", Phone: number},
			{AppID: "wx1", OpenID: "o1", UserID: "member-8"},
			{AppID: "wx1", OpenID: "o4", UserID: "member-7"},
		}
		for again := range 2 {
			out := importedInto(t, s.ImportExternal(), user.Replace, rows...)
			for i, want := range []error{nil, nil, importer.ErrNoUserID, importer.ErrOpenIDTaken, importer.ErrOtherOpenID} {
				if !errors.Is(out[i].Refused, want) || out[i].NewUser || out[i].Bound != (want == nil && again == 0) {
					t.Errorf("row %d, time %d: %+v", i, again, out[i])
				}
			}
		}
		if n := count(t, s, `SELECT COUNT(*) FROM {users}`) + count(t, s, `SELECT COUNT(*) FROM {user_phones}`); n != 0 {
			t.Errorf("%d users were created", n)
		}
		for _, want := range []user.Binding{
			{AppID: "wx1", OpenID: "o1", UnionID: "n1", UserID: "member-7", PhoneAt: now},
			{AppID: "wx2", OpenID: "o2", UserID: "member-7", PhoneAt: now, Phone: number},
		} {
			if b, _, err := s.Binding(t.Context(), want.AppID, want.OpenID); err != nil || b != want {
				t.Errorf("binding %+v, want %+v: %v", b, want, err)
			}
		}
	})
}

// Users log in while they are imported. Nobody may become two users.
func TestImportBesideLoginsMakesNobodyTwice(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		replica := open(defaults).With(testKeys(t, 1))
		const people = 60
		var rows []importer.Row
		for i := range people {
			rows = append(rows, importer.Row{AppID: "wx1", OpenID: fmt.Sprintf("imported%d", i), Phone: phone(t, fmt.Sprintf("138%08d", i))})
		}
		var logins sync.WaitGroup
		for i := range people {
			logins.Go(func() {
				u, err := replica.Users(true, settings).Login(context.Background(), user.Login{Phone: rows[i].Phone})
				if err != nil {
					t.Error(err)
					return
				}
				b := user.Binding{AppID: "wx1", OpenID: fmt.Sprintf("own%d", i), UserID: u.ID, PhoneAt: now}
				if _, err := commit(t, replica, loginCommit(b, user.Replace, newSession(u.ID, "wx1", b.OpenID, now))); err != nil {
					t.Error(err)
				}
			})
		}
		for at := 0; at < people; at += 10 {
			imported(t, s, user.Replace, rows[at:at+10]...)
		}
		logins.Wait()
		if n := count(t, s, `SELECT COUNT(*) FROM {users}`); n != people {
			t.Errorf("%d users of %d people", n, people)
		}
		if n := count(t, s, `SELECT COUNT(*) FROM {bindings}`); n != people {
			t.Errorf("%d openids of %d people", n, people)
		}
		if n := count(t, s, `SELECT COUNT(*) FROM {bindings} WHERE openid LIKE 'own%'`); n != people {
			t.Errorf("%d of %d logins count", n, people)
		}
	})
}

// An import of many rows is split into batches and stores them all.
func TestImportOfManyRowsAtOnce(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		var rows []importer.Row
		for i := range 500 {
			rows = append(rows, importer.Row{AppID: fmt.Sprintf("wx%d", i%3), OpenID: fmt.Sprint("o", i), UnionID: fmt.Sprint("n", i), Phone: phone(t, fmt.Sprintf("138%08d", i))})
		}
		imported(t, s, user.Replace, rows...)
		if users, openids := count(t, s, `SELECT COUNT(*) FROM {users}`), count(t, s, `SELECT COUNT(*) FROM {bindings}`); users != 500 || openids != 500 {
			t.Errorf("%d users, %d openids", users, openids)
		}
		for _, o := range imported(t, s, user.Replace, rows...) {
			if o != (importer.Outcome{}) {
				t.Fatalf("again: %+v", o)
			}
		}
		// There are few different statements, however long the lists are.
		s.db.sql.Rewritten(func(query, _ string) {
			if strings.Count(query, "?") > 500 {
				t.Errorf("a statement with %d parameters", strings.Count(query, "?"))
			}
		})
	})
}

// An old file still lists Alice's openids, but Bob has her number now. The import must neither
// activate her suspended openids nor add an active one for her account.
func TestImportWakesNoSuspendedAccount(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		number := phone(t, "13800138000")
		file := []importer.Row{{AppID: "wx2", OpenID: "alice2", UnionID: "alice", Phone: number}}
		imported(t, s, user.Replace, file...)
		u, err := s.Users(true, settings).Login(t.Context(), user.Login{Phone: number})
		if err != nil {
			t.Fatal(err)
		}
		logIn(t, s, user.Binding{AppID: "wx1", OpenID: "bob1", UnionID: "bob", UserID: u.ID, PhoneAt: now}, user.Replace, now)
		file = append(file, importer.Row{AppID: "wx3", OpenID: "alice3", UnionID: "alice", Phone: number})
		for i, o := range imported(t, s, user.Replace, file...) {
			if o.Refused != nil || o.Bound != (i == 1) {
				t.Errorf("row %d: %+v", i, o)
			}
		}
		for _, appid := range []string{"wx2", "wx3", "wx4"} {
			if known, err := s.Known(t.Context(), login.Account{AppID: appid, OpenID: "alice" + appid[2:], UnionID: "alice"}); err != nil || known.UserID != u.ID || known.State != user.Suspended {
				t.Errorf("%s: %+v, %v", appid, known, err)
			}
		}
	})
}

// The file is older than a phone login here, and its openid may be that of the number's former
// owner. It is suspended until its next phone login, unless it is the same WeChat account. With the
// rule keep, accounts do not put each other out.
func TestImportLetsNoFormerOwnerIn(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		bob := func(national string) (u user.User) {
			t.Helper()
			u, err := s.Users(true, settings).Login(t.Context(), user.Login{Phone: phone(t, national)})
			if err != nil {
				t.Fatal(err)
			}
			logIn(t, s, user.Binding{AppID: "wx1", OpenID: "bob" + national, UnionID: "b" + national, UserID: u.ID, PhoneAt: now, AuthAt: now}, user.Replace, now)
			return u
		}
		state := func(row importer.Row, rule user.NewOpenID) user.BindingState {
			t.Helper()
			if o := imported(t, s, rule, row)[0]; o.Refused != nil || !o.Bound {
				t.Fatalf("%+v: %+v", row, o)
			}
			b, _, err := s.Binding(t.Context(), row.AppID, row.OpenID)
			if err != nil {
				t.Fatal(err)
			}
			return b.State
		}
		bob("13800138001")
		for name, c := range map[string]struct {
			row  importer.Row
			rule user.NewOpenID
			want user.BindingState
		}{
			"another account": {importer.Row{AppID: "wx2", OpenID: "alice2"}, user.Replace, user.Suspended},
			"with deny":       {importer.Row{AppID: "wx3", OpenID: "alice3", UnionID: "alice"}, user.Deny, user.Suspended},
			"with keep":       {importer.Row{AppID: "wx4", OpenID: "alice4"}, user.Keep, user.Active},
			"the same":        {importer.Row{AppID: "wx5", OpenID: "bob5", UnionID: "b13800138001"}, user.Replace, user.Active},
		} {
			c.row.Phone = phone(t, "13800138001")
			if got := state(c.row, c.rule); got != c.want {
				t.Errorf("%s: state %v, want %v", name, got, c.want)
			}
		}
		// Bob has replaced Alice, and has moved on since. Neither the openid that he has replaced
		// nor another one of her account comes back.
		number := phone(t, "13800138002")
		u, err := s.Users(true, settings).Login(t.Context(), user.Login{Phone: number})
		if err != nil {
			t.Fatal(err)
		}
		logIn(t, s, user.Binding{AppID: "wx1", OpenID: "alice1", UnionID: "alice1", UserID: u.ID, PhoneAt: now, AuthAt: now}, user.Replace, now)
		bob("13800138002")
		execute(t, s, `DELETE FROM {bindings} WHERE openid = ?`, "bob13800138002")
		for _, row := range []importer.Row{
			{AppID: "wx1", OpenID: "alice1"}, {AppID: "wx6", OpenID: "alice6", UnionID: "alice1"}, {AppID: "wx7", OpenID: "alice7"},
		} {
			row.Phone = number
			if got := state(row, user.Replace); got != user.Suspended {
				t.Errorf("%s: state %v", row.OpenID, got)
			}
		}
		// The new owner has withdrawn the number in the only app with a phone login, and still uses
		// another one, by the unionid.
		u = bob("13800138003")
		logIn(t, s, user.Binding{AppID: "wx2", OpenID: "bob2", UnionID: "b13800138003", UserID: u.ID}, user.Replace, now)
		execute(t, s, `UPDATE {bindings} SET state = ?, auth_at = 0 WHERE user_id = ? AND appid = 'wx1'`, int64(user.Detached), u.ID)
		if got := state(importer.Row{AppID: "wx8", OpenID: "alice8", Phone: u.Phone}, user.Replace); got != user.Suspended {
			t.Errorf("after a withdrawal: state %v", got)
		}
	})
}
