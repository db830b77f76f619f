package store

import (
	"errors"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb/dbtest"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// A pooler that accepts no settings can be used if the role has the right settings by default. If
// they are wrong, the error must name the remedy.
func TestPoolerThatTakesNoSettings(t *testing.T) {
	dbtest.BehindPoolers(t, func(t *testing.T, address, says string) {
		s := handles(t, address)(defaults).With(testKeys(t, 1))
		err := s.Open(t.Context())
		if says != "" {
			if err == nil || errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), says) {
				t.Error(err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Users(true, settings).Login(t.Context(), user.Login{Phone: phone(t, "13800138000")}); err != nil {
			t.Error(err)
		}
	})
}
