package external

import (
	"errors"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb/dbtest"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// Behind a pooler that accepts no settings, a configured query is read as the database reads it. If
// the role has other settings, the error must name the remedy.
func TestPoolerThatTakesNoSettings(t *testing.T) {
	dbtest.BehindPoolers(t, func(t *testing.T, address, says string) {
		f := tablesAt(t, address)
		d := directoryOf(t, f, `SELECT '安' AS id WHERE 'a\' <> :phone`, "", `SELECT '1' AS id WHERE 'a\' <> :id`, "")
		err := d.Open(t.Context())
		if (err != nil) != (says != "") || err != nil && (!errors.Is(err, user.ErrMisconfigured) || !strings.Contains(err.Error(), says)) {
			t.Error(err)
		}
	})
}
