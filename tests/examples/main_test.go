// Package examples tests what the pages and the folders examples, client and cmd give to
// others: each is used as its page says, with the program that it is for.
package examples

import (
	"os"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

func TestMain(m *testing.M) { os.Exit(rig.Main(m)) }
