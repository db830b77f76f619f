package login

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// replayFor is how long the same pair of codes is answered with the same session.
const replayFor = time.Minute

// open binds the openid and opens the session in one transaction, or finds the session
// that these codes have already opened. It returns user.ErrUnknown and ErrChanged
// unchanged, because the directory may have another answer by now.
func (c *Chain) open(ctx context.Context, l underway, a admitted) (Result, error) {
	now := c.now()
	u, b := a.user, a.binding
	if l.again.SessionID != "" {
		return c.reopen(ctx, u, l.again, now)
	}
	created := keyOf("created", u.ID)
	if c.State.created.has(created, now) {
		u.New = true // an attempt that failed later created the user
	}
	moved := !l.phone.IsZero() && a.known.UserID != "" && a.known.UserID != u.ID
	s := session.New(session.Session{
		UserID: u.ID, Issuer: c.Sessions.Issuer, Audience: c.Sessions.FirstAudience(), AppID: b.AppID, OpenID: b.OpenID, UnionID: b.UnionID,
		UserAgent: l.r.UserAgent, Address: l.r.Address, AuthAt: b.AuthAt,
	}, c.Sessions.Settings, now)
	// Mint first: a user who does not fit into a token must not leave a session behind.
	token, err := c.mint(s, u, now)
	if err != nil {
		return Result{}, err
	}
	value, err := json.Marshal(replayed{s.ID, u.New, moved})
	if err != nil {
		return Result{}, refuse(problem.StoreUnavailable, err)
	}
	until := c.Sessions.Settings.Until(now)
	replaces, _ := c.Sessions.Keys.SessionOf(l.r.RefreshToken)
	var done Committed
	err = c.observed(ctx, "session", func(ctx context.Context) (err error) {
		done, err = c.Store.Commit(ctx, Commit{
			Binding: b, Rule: c.NewOpenID, Until: until, Known: a.known, Phone: l.phone, External: c.External, Begun: l.begun, Session: s,
			Max: c.Sessions.Settings.Max, Replaces: replaces, Replaceable: func(s session.Session) bool {
				return c.Sessions.CheckRefreshToken(l.r.RefreshToken, s, now) == nil
			},
			Login: l.key, Value: value, Expires: now.Add(replayFor), Code: loginStep(l.r), Spent: spent,
		})
		return err
	})
	var faster *Opened
	if errors.As(err, &faster) {
		var again replayed
		if err := decode(faster.Value, &again); err != nil {
			return Result{}, err
		}
		c.State.created.remove(created)
		return c.reopen(ctx, u, again, now)
	}
	if err != nil {
		if u.New {
			c.State.created.add(created, now, now.Add(keepFor))
		}
		return Result{}, c.notCommitted(l, err)
	}
	c.State.created.remove(created)
	for _, id := range slices.Concat(done.Ended, done.Surplus) {
		c.Sessions.Revoked.Add(id, until)
	}
	if done.Replaced != "" {
		c.Sessions.Revoked.Add(done.Replaced, until)
	}
	surplus := c.endSurplus(ctx, s, done, now)
	return Result{User: u, Session: s, Token: token, Moved: moved, Committed: done, Surplus: surplus}, nil
}

// surplusTime bounds how long a login waits until the user's surplus sessions have
// ended, if they are very many.
const surplusTime = 10 * time.Second

// endSurplus ends those of the user's surplus sessions that the closing transaction has
// left. The login has succeeded by then. If this fails, the user's next login ends the
// rest.
func (c *Chain) endSurplus(ctx context.Context, s session.Session, done Committed, now time.Time) (ended session.Ended) {
	ended.Add(done.Surplus...)
	if !done.More {
		return ended
	}
	ctx, cancel := context.WithTimeout(ctx, surplusTime)
	defer cancel()
	more, _ := c.Sessions.EndSurplus(ctx, s, now)
	ended.Join(more)
	return ended
}

// notCommitted converts an error of Store.Commit.
func (c *Chain) notCommitted(l underway, err error) error {
	switch {
	case errors.Is(err, ErrChanged), errors.Is(err, ErrChanging), errors.Is(err, user.ErrUnknown):
		return err
	case errors.Is(err, ErrOvertaken):
		return c.overtaken(l, err)
	case errors.Is(err, ErrCodeSpent):
		return refuse(problem.LoginCodeInvalid, err, wechat.RenewCode)
	case errors.Is(err, user.ErrNewOpenID):
		return refuse(problem.NewOpenIDDenied, nil)
	case errors.Is(err, user.ErrDisabled):
		return refuse(problem.UserDisabled, nil)
	}
	return fromStore(err)
}

// reopen answers with the session that these codes have opened. It ends nothing.
func (c *Chain) reopen(ctx context.Context, u user.User, again replayed, now time.Time) (Result, error) {
	s, err := c.Sessions.Store.Session(ctx, again.SessionID)
	switch {
	case err != nil && !errors.Is(err, session.ErrNotFound):
		return Result{}, fromStore(err)
	case err != nil || c.over(s) || s.UserID != u.ID:
		return Result{}, refuse(problem.LoginCodeInvalid, nil, wechat.RenewCode)
	}
	u.New = u.New || again.New // our login may have created the user while another replica's was faster
	if err := c.Sessions.Extend(ctx, s, now); err != nil {
		return Result{}, fromStore(err)
	}
	token, err := c.mint(s, u, now)
	return Result{User: u, Session: s, Token: token, Replayed: true, Moved: again.Moved}, err
}

func (c *Chain) mint(s session.Session, u user.User, now time.Time) (string, error) {
	token, err := c.Mint(s, u, now)
	if err != nil {
		return "", refuse(problem.Misconfigured, fmt.Errorf("minting the token: %w", err))
	}
	return token, nil
}

// over reports whether a session has ended: in the store, as far as this process has
// seen, or by its age.
func (c *Chain) over(s session.Session) bool {
	return !s.EndedAt.IsZero() || c.Sessions.Revoked.Contains(s.ID) || !c.now().Before(s.ExpiresAt)
}
