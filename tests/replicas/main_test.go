// Package replicas tries several built binaries on one real database: what holds when
// they are asked side by side, paused, killed, reloaded, or left without the database.
package replicas

import (
	"os"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

func TestMain(m *testing.M) { os.Exit(rig.Main(m)) }
