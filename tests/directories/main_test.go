// Package directories tests external user directories with the built binary: a team's
// backend and a team's table, working and broken, and the examples of the pages about them
// as printed.
package directories

import (
	"os"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

func TestMain(m *testing.M) { os.Exit(rig.Main(m)) }
