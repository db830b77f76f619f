package caddymodule

import (
	"errors"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/remedy"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/store"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// remedied is an error with its remedy.
type remedied struct {
	error
	remedy  string
	heading remedy.Heading
}

func (e remedied) Error() string { return e.error.Error() + ": " + e.remedy }
func (e remedied) Unwrap() error { return e.error }

// Remedy returns the remedy for the log.
func (e remedied) Remedy() string { return e.remedy }

// Heading returns the heading for the log.
func (e remedied) Heading() remedy.Heading { return e.heading }

// withRemedy adds a remedy to the error of a store that belongs to another directory or
// WeChat, or that cannot be written.
func withRemedy(err error, d directoryName) error {
	var names *store.NameError
	const own = "give this site a store of its own: store sqlite:/another/path, or table_prefix another_ in the block of store"
	switch {
	case errors.As(err, new(remedied)):
		return err
	case errors.As(err, &names) && names.AppID != "":
		same := "if that is the same WeChat, by a proxy or under its former address, write `realm " + names.Recorded + "` in the block of wechat; else "
		if names.Configured == wechat.Own {
			same = "if " + names.Recorded + " was a proxy to WeChat itself, run once in the database: DELETE FROM wx_auth_meta (or with your table_prefix) WHERE name = 'wechat:" + names.AppID + "'; else "
		}
		return remedied{err, same + own, remedy.StoreUnusable}
	case errors.As(err, &names) && d.name == store.OwnUsers && !d.written:
		return remedied{err, "write the line `users` of that directory again, with `realm " + names.Recorded + "` in its block; or " + own, remedy.StoreUnusable}
	case errors.As(err, &names):
		return remedied{err, "if the ids are the same people's, write `realm " + names.Recorded + "` in the block of users; else " + own, remedy.StoreUnusable}
	case errors.Is(err, store.ErrReadOnly):
		return remedied{err, "let the user that runs Caddy write to the file and its directory, or connect to the server that takes writes (a replica or a server with read_only takes none)", remedy.StoreReadOnly}
	}
	return err
}
