package store

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

func shop(appids ...string) Names {
	n := Names{Directory: "webhook:https://shop.example.com/users", WeChat: make(map[string]string)}
	for _, id := range appids {
		n.WeChat[id] = "weixin.qq.com"
	}
	return n
}

// Two directories may assign the id 1 to two people, and two WeChats the same openid. So a store
// accepts only the first directory and WeChat that a configuration has used with it.
func TestStoreKeepsToItsNames(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		if err := s.CheckNames(t.Context(), shop("wxA")); err != nil {
			t.Fatal("nothing is recorded:", err)
		}
		other := shop("wxA")
		other.Directory = "crew"
		if err := s.CheckNames(t.Context(), other); err != nil {
			t.Fatal("a comparison recorded a name:", err)
		}
		for range 2 {
			if changed, err := s.RecordNames(t.Context(), shop("wxA"), "find 1"); err != nil || changed {
				t.Fatal(changed, err)
			}
		}
		staging := shop("wxA", "wxB")
		staging.WeChat["wxA"] = "127.0.0.1:9000"
		long := strings.Repeat("a", 64)
		for name, c := range map[string]struct {
			names Names
			want  *NameError
		}{
			"another app":          {shop("wxB"), nil},
			"a long appid":         {shop(long), nil},
			"another directory":    {other, &NameError{Recorded: shop().Directory, Configured: "crew"}},
			"the store's own":      {Names{Directory: OwnUsers}, &NameError{Recorded: shop().Directory, Configured: OwnUsers}},
			"another WeChat":       {staging, &NameError{AppID: "wxA", Recorded: "weixin.qq.com", Configured: "127.0.0.1:9000"}},
			"a longer name":        {Names{Directory: shop().Directory + " "}, &NameError{Recorded: shop().Directory, Configured: shop().Directory + " "}},
			"another case of name": {Names{Directory: strings.ToUpper(shop().Directory)}, &NameError{Recorded: shop().Directory, Configured: strings.ToUpper(shop().Directory)}},
		} {
			_, recorded := s.RecordNames(t.Context(), c.names, "")
			for _, err := range []error{s.CheckNames(t.Context(), c.names), recorded} {
				var got *NameError
				errors.As(err, &got)
				if (got == nil) != (c.want == nil) || got != nil && *got != *c.want || (err == nil) != (c.want == nil) {
					t.Errorf("%s: %v, want %v", name, err, c.want)
				}
				if err != nil && errors.Is(err, ErrUnavailable) {
					t.Errorf("%s: %v is not reported as permanent", name, err)
				}
			}
		}
		// A refused configuration has recorded nothing, not even its apps.
		staging.WeChat["wxC"] = "127.0.0.1:9000"
		if _, err := s.RecordNames(t.Context(), staging, ""); err == nil {
			t.Error("another WeChat was accepted")
		}
		if err := s.CheckNames(t.Context(), shop("wxC")); err != nil {
			t.Error(err)
		}
		if changed, err := s.RecordNames(t.Context(), shop("wxA"), "find 2"); err != nil || !changed {
			t.Error("another query:", changed, err)
		}
	})
}

// A store from before names were recorded has users of its own. It refuses a webhook as directory.
func TestStoreWithUsersIsItsOwnDirectory(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		s := started(t, open)
		if _, err := s.Users(true, settings).Login(t.Context(), user.Login{AppID: "wxA", OpenID: "o", Phone: user.Phone{Country: "86", National: "13800138000"}}); err != nil {
			t.Fatal(err)
		}
		var refused *NameError
		if err := s.CheckNames(t.Context(), shop("wxA")); !errors.As(err, &refused) || refused.Recorded != OwnUsers || !refused.Users {
			t.Error(err)
		}
		if _, err := s.RecordNames(t.Context(), shop("wxA"), ""); !errors.As(err, &refused) {
			t.Error(err)
		}
		if _, err := s.RecordNames(t.Context(), Names{Directory: OwnUsers}, ""); err != nil {
			t.Error(err)
		}
		if v, err := s.Survey(t.Context()); err != nil || v.Users != 1 || v.OpenIDs != 0 || !v.Created || v.Schema != len(migrations) {
			t.Errorf("%+v, %v", v, err)
		}
	})
}

// Ten replicas start at once on an empty database, with two directories. All replicas of one
// directory are accepted, all of the other are refused.
func TestNamesRecordedAtOnce(t *testing.T) {
	onEach(t, func(t *testing.T, open database) {
		started(t, open)
		const replicas = 10
		errs := make([]error, replicas)
		var all sync.WaitGroup
		for i := range replicas {
			s := started(t, open)
			n := shop("wxA", "wxB")
			n.Directory = []string{"shop", "crew"}[i%2]
			all.Go(func() { _, errs[i] = s.RecordNames(t.Context(), n, "") })
		}
		all.Wait()
		for i, err := range errs {
			if (err == nil) != (errs[i%2] == nil) || err != nil && !errors.As(err, new(*NameError)) {
				t.Errorf("replica %d: %v", i, err)
			}
		}
		if (errs[0] == nil) == (errs[1] == nil) {
			t.Errorf("%v and %v", errs[0], errs[1])
		}
	})
}
