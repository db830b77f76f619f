package external

import (
	"errors"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user/sqldir"
)

// The query phone changes a user's number in the operator's table. If a unique index refuses the
// number, it belongs to another user. A query that would change several users is undone.
func TestNumberInOwnTableChanges(t *testing.T) {
	onMembers(t, func(t *testing.T, f *Tables) {
		put(t, f, `INSERT INTO members (mobile) VALUES ('13800138000')`)
		put(t, f, `INSERT INTO members (mobile) VALUES ('13900139000')`)
		change := func(query, id, number string) error {
			d := directoryOf(t, f, findMember, createMember, checkMember, eraseMember)
			if err := d.Queries.ParsePhone(query, f.MySQL()); err != nil {
				t.Fatal(err)
			}
			if err := d.Open(t.Context()); err != nil {
				return err
			}
			return user.ChangePhone(t.Context(), user.Checked(d), id, phone(t, number))
		}
		const query = `UPDATE members SET mobile = :national WHERE member_no = :id AND :country = '86'`
		for _, c := range []struct {
			query, id, number string
			want              error
		}{
			{query, "1", "13700137000", nil},
			{query, "1", "13700137000", nil}, // repeated
			{query, "1", "13900139000", user.ErrPhoneTaken},
			{query, "99", "13600136000", user.ErrUnknown},
			{query, "no-number", "13600136000", user.ErrUnknown},
			{`UPDATE members SET nick_name = :phone WHERE :id <> ''`, "1", "13600136000", user.ErrMisconfigured},
			{`UPDATE nobody SET mobile = :phone WHERE id = :id`, "1", "13600136000", user.ErrMisconfigured},
			{"", "1", "13600136000", user.ErrPhoneFixed},
		} {
			err := change(c.query, c.id, c.number)
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Errorf("%s, %s: %v, want %v", c.id, c.number, err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), c.number) {
				t.Errorf("the error has the number: %v", err)
			}
		}
		var numbers []string
		for _, n := range []string{"13700137000", "13800138000", "13900139000"} {
			d := directoryOf(t, f, findMember, "", checkMember, "")
			if u, err := d.Login(t.Context(), user.Login{OpenID: "o1", Phone: phone(t, n)}); err == nil {
				numbers = append(numbers, n+" "+u.ID)
			}
		}
		if got := strings.Join(numbers, ", "); got != "13700137000 1, 13900139000 2" {
			t.Errorf("afterwards: %s", got)
		}
	})
}

// A query that cannot mean "this user gets this number" is refused when it is parsed.
func TestQueryPhoneNeedsUserAndNumber(t *testing.T) {
	for query, want := range map[string]string{
		"UPDATE m SET mobile = :phone":                     ":id",
		"UPDATE m SET mobile = '1' WHERE id = :id":         "the phone number",
		"UPDATE m SET mobile = :national WHERE id = :id":   ":country",
		"UPDATE m SET mobile = :number WHERE id = :id":     ":number",
		"UPDATE m SET mobile = 'it WHERE id = :id, :phone": "",
	} {
		var q sqldir.Queries
		var qe *sqldir.QueryError
		if err := q.ParsePhone(query, false); !errors.As(err, &qe) || qe.Name != "phone" || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", query, err)
		}
	}
}
