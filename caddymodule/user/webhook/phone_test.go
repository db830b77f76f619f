package webhook_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// A change of number counts only if the backend confirms it by repeating the number. A backend that
// does not know this request, whatever it answers, has changed nothing.
func TestChangeOfNumberIsConfirmed(t *testing.T) {
	ann := ann(t).Phone
	const same = `{"phone":"+8613800138000"}`
	for name, c := range map[string]struct {
		to     user.Phone
		status int
		body   string
		want   error // nil: done
	}{
		"done":                      {ann, 200, same, nil},
		"done, escaped":             {ann, 200, `{"phone":"\u002b8613800138000","x":1}`, nil},
		"taken away":                {user.Phone{}, 200, `{"phone":null}`, nil},
		"another user's":            {ann, 409, ``, user.ErrPhoneTaken},
		"an answer without it":      {ann, 200, `{"id":"7"}`, user.ErrPhoneFixed},
		"no JSON":                   {ann, 200, `ok`, user.ErrPhoneFixed},
		"no content":                {ann, 204, ``, user.ErrPhoneFixed},
		"unknown type, 400":         {ann, 400, ``, user.ErrPhoneFixed},
		"unknown type, 501":         {ann, 501, ``, user.ErrPhoneFixed},
		"another number":            {ann, 200, `{"phone":"+8613800138001"}`, user.ErrMisconfigured},
		"null instead of it":        {ann, 200, `{"phone":null}`, user.ErrMisconfigured},
		"a number for none":         {user.Phone{}, 200, same, user.ErrMisconfigured},
		"a number, not a string":    {ann, 200, `{"phone":8613800138000}`, user.ErrMisconfigured},
		"wrong secret":              {ann, 401, ``, user.ErrMisconfigured},
		"unknown type, user exists": {ann, 404, `{"id":"7"}`, user.ErrPhoneFixed},
		"user does not exist":       {ann, 404, ``, user.ErrUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			var question string
			d := directory(t, func(w http.ResponseWriter, r *http.Request) {
				raw, _ := io.ReadAll(r.Body)
				if strings.Contains(string(raw), `"user.check"`) {
					if c.body == "" {
						w.WriteHeader(404)
					}
					_, _ = io.WriteString(w, c.body)
					return
				}
				question = string(raw)
				w.WriteHeader(c.status)
				if c.status != 204 {
					_, _ = io.WriteString(w, c.body)
				}
			})
			err := user.ChangePhone(t.Context(), d, "7", c.to)
			if !errors.Is(err, c.want) || (c.want == nil) != (err == nil) {
				t.Errorf("%v, want %v", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "138001380") {
				t.Errorf("the error has the number: %v", err)
			}
			want := `{"type":"user.phone","userId":"7","phone":"+8613800138000","country":"86","national":"13800138000"}`
			if c.to.IsZero() {
				want = `{"type":"user.phone","userId":"7","phone":null,"country":null,"national":null}`
			}
			if question != want {
				t.Errorf("asked %s", question)
			}
		})
	}
	d := directory(t, answering(503, ""))
	if err := user.ChangePhone(t.Context(), d, "7", ann); err == nil || errors.Is(err, user.ErrPhoneFixed) || errors.Is(err, user.ErrMisconfigured) {
		t.Errorf("a backend that is down: %v", err)
	}
}
