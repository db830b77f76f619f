// Package replicas tests several built binaries on one real database: in parallel,
// paused, killed, reloaded, or with the database down.
package replicas

import (
	"os"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

func TestMain(m *testing.M) { os.Exit(rig.Main(m)) }
