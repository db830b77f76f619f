package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/account"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// sessions writes the table of sessions.
func (o Output) sessions(list []session.Session, ends bool) error {
	head := "SESSION | APPID | CREATED | REFRESHED | ADDRESS | USER AGENT"
	if ends {
		head += " | ENDED | REASON"
	}
	var rows [][]string
	for _, s := range list {
		row := []string{s.ID, s.AppID, moment(s.CreatedAt), moment(s.RefreshedAt), s.Address, s.UserAgent}
		if ends {
			row = append(row, moment(s.EndedAt), string(s.EndReason))
		}
		rows = append(rows, row)
	}
	return o.table(head, rows)
}

// ListSessions lists a user's live sessions. If ended is set, it also lists the ended ones that are
// still stored.
func (o *Store) ListSessions(ctx context.Context, out Output, userID string, ended bool, now time.Time) error {
	x, err := o.Export(ctx, userID)
	switch {
	case errors.Is(err, user.ErrUnknown):
		if err := o.known(ctx, userID); err != nil {
			return err
		}
	case err != nil:
		return err
	}
	list := x.Sessions
	if !ended {
		if list, err = o.UserSessions(ctx, userID, now); err != nil {
			return err
		}
	}
	if !out.JSON {
		return out.sessions(list, ended)
	}
	if ended {
		return out.json(map[string]any{"sessions": x.Record(userID)["sessions"]})
	}
	records := []account.Device{}
	for _, s := range list {
		records = append(records, account.DeviceOf(s))
	}
	return out.json(map[string]any{"sessions": records})
}

// EndSessions ends sessions by their ids.
func (o *Store) EndSessions(ctx context.Context, out Output, ids []string, now time.Time) error {
	var missing []error
	records := []map[string]any{}
	for _, id := range ids {
		s, err := o.Session(ctx, id)
		if errors.Is(err, session.ErrNotFound) {
			missing = append(missing, fmt.Errorf("there is no session with the id %q, or it ended so long ago that it was deleted", id))
			continue
		}
		var ended session.Ended
		if err == nil {
			ended, err = o.accounts().End(ctx, s, session.ReasonRevoked, now)
		}
		if err != nil {
			return err
		}
		records = append(records, map[string]any{"id": id, "userId": s.UserID, "ended": ended.Count == 1})
		switch {
		case out.JSON:
		case ended.Count == 0:
			fmt.Fprintf(out, "The session %s of the user %s had ended before.\n", id, s.UserID)
		default:
			fmt.Fprintf(out, "The session %s of the user %s has ended. Every replica knows this within 1.5 s.\n", id, s.UserID)
		}
	}
	if out.JSON {
		if err := out.json(map[string]any{"sessions": records}); err != nil {
			return err
		}
	}
	return errors.Join(missing...)
}

// EndUsers ends all sessions of users.
func (o *Store) EndUsers(ctx context.Context, out Output, ids []string, now time.Time) error {
	for _, id := range ids {
		if err := o.known(ctx, id); err != nil {
			return err
		}
		ended, err := o.accounts().Revoke(ctx, id, now)
		if err := out.did(id, "logged out", ended, err); err != nil {
			return err
		}
	}
	return nil
}
