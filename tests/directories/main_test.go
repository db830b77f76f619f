// Package directories tries the directories of users that live elsewhere, on the
// built binary: a team's backend and a team's table, good and broken, and the
// README's blocks about them as they are printed.
package directories

import (
	"os"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

func TestMain(m *testing.M) { os.Exit(rig.Main(m)) }
