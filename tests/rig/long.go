package rig

import "os"

// Long says that the tests shall do more rounds, over larger tables, than each run of
// all tests has time for.
var Long = os.Getenv("WX_AUTH_TEST_LONG") != ""

// Rounds is how often to do something: many times if Long.
func Rounds(usual, long int) int {
	if Long {
		return long
	}
	return usual
}
