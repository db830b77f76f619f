package store

import (
	"slices"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
)

// CountOperation is the operation that counts the sessions. It may take long if there are very
// many.
const CountOperation = "count_sessions"

// operations maps the words with which an operation's errors begin to its name.
var operations = map[string]string{
	"committing a login":          "commit_login",
	"keeping a step":              "login_step",
	"reading a kept step":         "login_step",
	"leasing a step":              "login_step",
	"renewing a lease":            "login_step",
	"releasing a step":            "login_step",
	"reading a binding":           "read_user",
	"reading a user":              "read_user",
	"reading a user's bindings":   "read_user",
	"finding a user":              "read_user",
	"listing users":               "read_user",
	"exporting a user":            "read_user",
	"reading who is disabled":     "read_user",
	"looking at who has left":     "read_user",
	"creating a user":             "change_user",
	"disabling a user":            "change_user",
	"erasing a user":              "change_user",
	"reading a session":           "read_session",
	"reading a user's sessions":   "read_session",
	"counting the sessions":       CountOperation,
	"advancing a session":         "refresh_session",
	"extending a session":         "refresh_session",
	"ending a session":            "end_sessions",
	"ending an openid's sessions": "end_sessions",
	"ending sessions":             "end_sessions",
	"reading the revocations":     "revocation_feed",
	"reading the signing keys":    "signing_keys",
	"adding a signing key":        "signing_keys",
	"removing signing keys":       "signing_keys",
	"reading an access token":     "access_token",
	"storing an access token":     "access_token",
	"leasing an access token":     "access_token",
	"releasing an access token":   "access_token",
	"purging":                     "housekeeping",
	"announcing a replica":        "housekeeping",
	"forgetting replicas":         "housekeeping",
	"writing":                     "probe",
}

// Operations lists the names of operations.
func Operations() (names []string) {
	for _, name := range operations {
		names = append(names, name)
	}
	slices.Sort(names)
	return append(slices.Compact(names), sqldb.OtherOperation)
}
