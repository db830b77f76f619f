package store

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// Users are found by number under any configured key. Lists contain each user once, page by page.
// An export contains the user's openids in every state, and the marks.
func TestUsersAreFoundAndExported(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		d := s.Users(true, settings)
		var ids []string
		for i := range 5 {
			u, err := d.Login(t.Context(), user.Login{AppID: "wx1", OpenID: fmt.Sprint("o", i), Phone: phone(t, fmt.Sprintf("1380013800%d", i))})
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, u.ID)
			logIn(t, s, user.Binding{AppID: "wx1", OpenID: fmt.Sprint("o", i), UserID: u.ID, PhoneAt: now, AuthAt: now}, user.Replace, now)
		}
		if id, err := s.FindPhone(t.Context(), phone(t, "13800138003")); err != nil || id != ids[3] {
			t.Errorf("found %s, %v; want %s", id, err, ids[3])
		}
		if _, err := s.FindPhone(t.Context(), phone(t, "13900139000")); !errors.Is(err, user.ErrUnknown) {
			t.Errorf("nobody's number: %v", err)
		}
		var listed, bound []string
		for after := ""; ; {
			page, err := s.ListUsers(t.Context(), after, 2)
			if err != nil || len(page) > 2 {
				t.Fatal(len(page), err)
			}
			here, err := s.ListBound(t.Context(), after, 2)
			if err != nil {
				t.Fatal(err)
			}
			if bound = append(bound, here...); len(page) == 0 {
				break
			}
			for _, u := range page {
				listed = append(listed, u.ID)
			}
			after = listed[len(listed)-1]
		}
		slices.Sort(ids)
		slices.Sort(listed)
		slices.Sort(bound)
		if !slices.Equal(listed, ids) || !slices.Equal(bound, ids) {
			t.Errorf("listed %q and %q, want %q", listed, bound, ids)
		}
		owner, _ := s.FindPhone(t.Context(), phone(t, "13800138000"))
		logIn(t, s, user.Binding{AppID: "wx1", OpenID: "new", UserID: owner, PhoneAt: now, AuthAt: now}, user.Replace, now)
		x, err := s.Export(t.Context(), owner)
		if err != nil || x.User == nil || len(x.Bindings) != 1 || len(x.Former) != 1 || x.Former[0].OpenID != "o0" || len(x.Sessions) != 2 {
			t.Errorf("export: %+v, %v", x, err)
		}
		if err := d.Erase(t.Context(), owner); err != nil {
			t.Fatal(err)
		}
		x, err = s.Export(t.Context(), owner)
		if err != nil || x.User != nil || x.ErasedAt.IsZero() || len(x.Bindings)+len(x.Former) != 0 || slices.ContainsFunc(x.Sessions, func(s session.Session) bool { return s.OpenID+s.Address+s.UserAgent != "" }) {
			t.Errorf("after the erasure: %+v, %v", x, err)
		}
		if _, err := s.Export(t.Context(), owner+" "); !errors.Is(err, user.ErrUnknown) {
			t.Errorf("another id: %v", err)
		}
	})
}
