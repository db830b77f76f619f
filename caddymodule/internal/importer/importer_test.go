package importer

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// taking is a store without users that accepts every row except those in refuse.
type taking struct {
	rows    []Row
	batches int
	refuse  map[string]error // by openid
	fail    error
}

func (s *taking) Import(_ context.Context, rows []Row, _ user.NewOpenID) (out []Outcome, err error) {
	if s.fail != nil && s.batches == 1 {
		return nil, s.fail
	}
	s.batches++
	for _, r := range rows {
		s.rows = append(s.rows, r)
		if err := s.refuse[r.OpenID]; err != nil {
			out = append(out, Outcome{Refused: err})
		} else {
			out = append(out, Outcome{NewUser: true, Bound: true})
		}
	}
	return out, nil
}

func run(t *testing.T, s *taking, file string) (sum Totals, refused []string, err error) {
	t.Helper()
	sum, err = Import{
		Store: s, Apps: []string{"wx1", "wx2"}, Rule: user.Replace,
		Refused: func(line int, phone user.Phone, reason error) {
			refused = append(refused, fmt.Sprintf("%d %s %s", line, phone, reason))
		},
	}.Run(t.Context(), strings.NewReader(file))
	return sum, refused, err
}

// TestLinesAreReadInEverySpelling imports one user from files as databases and Excel
// export them: quoted, with a header, with CR, with a byte-order mark.
func TestLinesAreReadInEverySpelling(t *testing.T) {
	number := user.Phone{Country: "86", National: "13800138000"}
	want := Row{AppID: "wx1", OpenID: "o1", UnionID: "n1", Phone: number, UserID: "u1"}
	for name, file := range map[string]string{
		"as the columns stand":    "wx1,o1,n1,+8613800138000,u1\n",
		"without a plus":          "wx1,o1,n1,13800138000,u1",
		"with blanks and a CR":    " wx1 , o1 , n1 , 138 0013 8000 , u1 \r\n",
		"quoted":                  `"wx1","o1","n1","+8613800138000","u1"` + "\n",
		"after a header":          "appid,openid,unionid,phone,user id\nwx1,o1,n1,+8613800138000,u1\n",
		"Excel's mark":            "\ufeffappid,openid,unionid,phone,user_id\r\nwx1,o1,n1,+8613800138000,u1\r\n",
		"another order":           "UserID,Phone,OpenID,UnionID,AppID\nu1,+8613800138000,o1,n1,wx1\n",
		"Excel's mark, no header": "\ufeffwx1,o1,n1,+8613800138000,u1\n",
		"with empty lines":        "\n\nwx1,o1,n1,+8613800138000,u1\n\n",
	} {
		s := new(taking)
		_, refused, err := run(t, s, file)
		if err != nil || len(refused) > 0 || len(s.rows) != 1 || s.rows[0] != want {
			t.Errorf("%s: %+v, refused %v, %v", name, s.rows, refused, err)
		}
	}
	s := new(taking)
	if _, _, err := run(t, s, "openid,appid,phone\no1,wx1,13800138000\n"); err != nil || len(s.rows) != 1 || s.rows[0] != (Row{AppID: "wx1", OpenID: "o1", Phone: number}) {
		t.Errorf("columns left out: %+v, %v", s.rows, err)
	}
}

// TestBadLinesAreRefusedAndOthersTaken imports a file in which most lines have a
// mistake. Each is refused with its number and reason, no phone number is printed in
// full, and the good lines are imported.
func TestBadLinesAreRefusedAndOthersTaken(t *testing.T) {
	s := &taking{refuse: map[string]error{"o9": ErrPhoneTaken}}
	sum, refused, err := run(t, s, strings.Join([]string{
		"appid,openid,unionid,phone,user id",   // 1
		"wx1,o1,,+8613800138000,",              // 2
		"wx3,o2,,+8613800138001,",              // 3
		"wx1,,,+8613800138002,",                // 4
		"wx1,o o,,+8613800138003,",             // 5
		"wx1,o4,,call me 13800138004,",         // 6
		"wx1,o5,,,",                            // 7
		"wx1,o6,,+8613800138006",               // 8
		`wx1,"o7,,+8613800138007,`,             // 9
		"wx1,o8,,+8613800138008,用户",            // 10
		"wx1,o9,,+8613800138009,",              // 11
		"wx1," + strings.Repeat("o", maxLine),  // 12
		"wx1,o10,é,+8613800138010,",            // 13
		"wx2,o11,,+8613800138011,",             // 14
		",o12,,+8613800138012,",                // 15
		"wx1,o13,," + strings.Repeat("1", 200), // 16
	}, "\n"))
	if err != nil || len(s.rows) != 3 || sum.NewUsers != 2 || sum.Bound != 2 || sum.Refused != 13 || sum.Line != 16 {
		t.Errorf("%d rows, %+v, %v", len(s.rows), sum, err)
	}
	text := strings.Join(refused, "\n")
	for _, want := range []string{
		"3 +86138****8001 the appid is none",
		"4 +86138****8002 the openid is missing",
		"5 +86138****8003 the openid",
		"6  phone: not a phone number",
		"7  neither a phone number nor a user id",
		"8  4 columns instead of 5",
		"9  the quotes do not match",
		"10 +86138****8008 the user id is invalid",
		"11 +86138****8009 " + ErrPhoneTaken.Error(),
		"12  the line is longer",
		"13 +86138****8010 the unionid",
		"15 +86138****8012 the appid is missing",
	} {
		if !strings.Contains("\n"+text, "\n"+want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if regexp.MustCompile(`1380013800[1-9]|13800138010|call me`).MatchString(text) {
		t.Errorf("a phone number in\n%s", text)
	}
}

// TestUnknownHeaderEndsTheImport imports files whose header has unknown or missing
// columns: guessing could bind openids to the wrong users.
func TestUnknownHeaderEndsTheImport(t *testing.T) {
	for _, header := range []string{"appid,openid,telephone", "openid,phone", "appid,openid,phone,phone"} {
		s := new(taking)
		if _, _, err := run(t, s, header+"\nwx1,o1,13800138000\n"); !errors.Is(err, errHeader) || len(s.rows) != 0 {
			t.Errorf("%s: %v, %d rows", header, err, len(s.rows))
		}
	}
}

// TestBrokenImportReportsHowFarItCame has the database fail between two batches. The
// totals name the last imported line, and the import can simply be repeated.
func TestBrokenImportReportsHowFarItCame(t *testing.T) {
	var file strings.Builder
	for i := range 2 * batchSize {
		fmt.Fprintf(&file, "wx1,o%d,,138%08d,\n", i, i)
	}
	s := &taking{fail: errors.New("away")}
	sum, _, err := run(t, s, file.String())
	if !errors.Is(err, s.fail) || sum.Line != batchSize || sum.NewUsers != batchSize || sum.Bytes == 0 {
		t.Errorf("%+v, %v", sum, err)
	}
	s.fail = nil
	if sum, _, err := run(t, s, file.String()); err != nil || sum.Line != 2*batchSize || sum.Bytes != int64(file.Len()) {
		t.Errorf("%+v, %v", sum, err)
	}
}
