package directory_test

import (
	"context"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	_ "github.com/wx-auth/caddy-wx-auth/caddymodule"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// StaffUsers logs in the phone numbers of its list, and no others. In a
// Caddyfile, built with `xcaddy build --with` its package:
//
//	users staff +8613800138000 +8613900139000
type StaffUsers struct {
	// The numbers, each with its country.
	Phones []string `json:"phones,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*StaffUsers) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "wx_auth.users.staff", New: func() caddy.Module { return new(StaffUsers) }}
}

// UnmarshalCaddyfile reads the numbers.
func (s *StaffUsers) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // staff
	if s.Phones = d.RemainingArgs(); len(s.Phones) == 0 {
		return d.ArgErr()
	}
	return nil
}

// Login implements user.Directory.
func (s *StaffUsers) Login(ctx context.Context, l user.Login) (user.User, error) {
	if l.Silent() {
		return s.Check(ctx, l.UserID)
	}
	for _, phone := range s.Phones {
		if phone == l.Phone.E164() {
			return user.User{ID: phone, Claims: map[string]any{"role": "staff"}}, nil
		}
	}
	return user.User{}, user.ErrRegistrationClosed
}

// Check implements user.Directory.
func (s *StaffUsers) Check(_ context.Context, id string) (user.User, error) {
	for _, phone := range s.Phones {
		if phone == id {
			return user.User{ID: phone, Claims: map[string]any{"role": "staff"}}, nil
		}
	}
	return user.User{}, user.ErrUnknown
}

// Erase implements user.Directory.
func (*StaffUsers) Erase(context.Context, string) error { return nil }

// A directory of your own is a Caddy module in the namespace wx_auth.users.
func Example() {
	caddy.RegisterModule((*StaffUsers)(nil)) // in a package of your own: in func init

	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(`:8080 {
	wx_auth wx0123456789abcdef {env.WX_SECRET} {
		users staff +8613800138000
	}
}`), nil)
	if err != nil {
		fmt.Println(err)
	}
	fmt.Println(string(config))
	// Output:
	// {"apps":{"http":{"servers":{"srv0":{"listen":[":8080"],"routes":[{"handle":[{"apps":[{"appid":"wx0123456789abcdef","secret":"{env.WX_SECRET}"}],"handler":"wx_auth","users":{"phones":["+8613800138000"],"source":"staff"}}]}]}}}}}
}

var _ user.Directory = (*StaffUsers)(nil)
