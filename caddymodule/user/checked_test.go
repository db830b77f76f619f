package user_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// constant is a directory that always returns the same answer.
type constant struct {
	user user.User
	err  error
}

func (c constant) Login(context.Context, user.Login) (user.User, error) { return c.user, c.err }
func (c constant) Check(context.Context, string) (user.User, error)     { return c.user, c.err }
func (c constant) Erase(context.Context, string) error                  { return c.err }

// A faulty backend returns ids such as "undefined", header injections, reserved claims or too much
// data. Each answer must be refused. Otherwise all callers with such an id would become one user,
// or "sub" would be forged.
func TestAnswersThatNoUserCanHaveAreRefused(t *testing.T) {
	phone, err := user.ParsePhone("86", "13800138000")
	if err != nil {
		t.Fatal(err)
	}
	claims := func(name string, value any) user.User {
		return user.User{ID: "u1", Claims: map[string]any{name: value}}
	}
	for name, tc := range map[string]struct {
		says    user.User
		refused bool
	}{
		"a user":                {says: user.User{ID: "u1", Info: map[string]any{"nick": "安"}, Claims: map[string]any{"roles": []any{"a", "b"}}}},
		"no id":                 {user.User{}, true},
		"a blank in the id":     {user.User{ID: "u 1"}, true},
		"a line break":          {user.User{ID: "u1\r\nX-Role: admin"}, true},
		"letters beyond ASCII":  {user.User{ID: "用户"}, true},
		"129 characters":        {user.User{ID: strings.Repeat("a", 129)}, true},
		"undefined":             {user.User{ID: "undefined"}, true},
		"null":                  {user.User{ID: "null"}, true},
		"None":                  {user.User{ID: "None"}, true},
		"claim sub":             {claims("sub", "u2"), true},
		"claim Sub":             {claims("Sub", "u2"), true},
		"claim iss":             {claims("iss", "x"), true},
		"claim exp":             {claims("exp", 1), true},
		"claim wx":              {claims("wx", "x"), true},
		"claim openid":          {claims("openid", "x"), true},
		"claim phone_number":    {claims("phone_number", "+8613900139000"), true},
		"claim without name":    {claims("", "x"), true},
		"claim, long name":      {claims(strings.Repeat("n", 65), "x"), true},
		"claims over 3 KiB":     {claims("roles", strings.Repeat("r", 3<<10)), true},
		"claims without JSON":   {claims("roles", func() {}), true},
		"userInfo over 64 KiB":  {user.User{ID: "u1", Info: map[string]any{"bio": strings.Repeat("b", 64<<10)}}, true},
		"userInfo without JSON": {user.User{ID: "u1", Info: map[string]any{"c": make(chan int)}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			d := user.Checked(constant{user: tc.says})
			_, err := d.Login(t.Context(), user.Login{Phone: phone})
			if refused := errors.Is(err, user.ErrMisconfigured); refused != tc.refused || !refused && err != nil {
				t.Errorf("login: %v", err)
			}
			_, err = d.Check(t.Context(), tc.says.ID)
			if refused := errors.Is(err, user.ErrMisconfigured); refused != tc.refused || !refused && err != nil {
				t.Errorf("check: %v", err)
			}
		})
	}
}

// A directory answers with another user than the requested one. A silent login must not open
// another person's account.
func TestOtherUserThanAskedIsRefused(t *testing.T) {
	phone, _ := user.ParsePhone("86", "13800138000")
	d := user.Checked(constant{user: user.User{ID: "u2"}})
	if _, err := d.Login(t.Context(), user.Login{UserID: "u1"}); !errors.Is(err, user.ErrMisconfigured) {
		t.Errorf("a silent login of u1 was accepted for u2: %v", err)
	}
	if _, err := d.Check(t.Context(), "u1"); !errors.Is(err, user.ErrMisconfigured) {
		t.Errorf("a check of u1 was answered with u2: %v", err)
	}
	// With a phone number the directory decides. It also decides on openids that only
	// it knows.
	for _, l := range []user.Login{{UserID: "u1", Phone: phone}, {}} {
		if u, err := d.Login(t.Context(), l); err != nil || u.ID != "u2" {
			t.Errorf("%+v: %+v, %v", l, u, err)
		}
	}
}

// The directory's own errors are returned unchanged.
func TestErrorsOfADirectoryPassAsTheyAre(t *testing.T) {
	for _, want := range []error{user.ErrUnknown, user.ErrRegistrationClosed, errors.New("down")} {
		d := user.Checked(constant{err: want})
		_, err := d.Login(t.Context(), user.Login{})
		_, err2 := d.Check(t.Context(), "u1")
		if err != want || err2 != want || d.Erase(t.Context(), "u1") != want {
			t.Errorf("%v, %v; want %v", err, err2, want)
		}
	}
}
