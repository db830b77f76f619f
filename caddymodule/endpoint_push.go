package caddymodule

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

const (
	// pushTimeout is how long a message may take: WeChat waits for five seconds,
	// and then sends it again, up to three times.
	pushTimeout = 4500 * time.Millisecond
	// pushKept is how long it is known that a message was dealt with: longer than
	// its signature is good, by whichever clock.
	pushKept = 4 * wechat.PushAge
	// leaveSkew is how far WeChat's clock may be ahead of that by which a login
	// was dated, when one has to know which was first.
	leaveSkew = time.Minute
)

// takesPushes says whether messages of that app are taken.
func (s *site) takesPushes(appid string) bool { return s.set.Pushes[appid] != nil }

// push takes what WeChat pushes to an app: the handshake when the address is set
// up, and then messages, of which those count that say that a user has left.
func (c *call) push() error {
	receiver := c.site.set.Pushes[c.id]
	query := c.r.URL.Query()
	if c.r.Method == http.MethodGet {
		echo, err := receiver.Echo(query, c.now)
		if err != nil {
			return c.pushRefused(err)
		}
		return c.say(echo)
	}
	body, p := readBody(c.w, c.r, wechat.MaxPush)
	if p != nil {
		if p.Code == problem.BodyTooLarge {
			p.Detail = "The message is larger than 64 KiB."
		}
		return refuse(c.w, c.r, p)
	}
	m, err := receiver.Open(query, body, c.now)
	if err != nil {
		return c.pushRefused(err)
	}
	if m.Leaves() {
		if c.live == nil {
			return refuse(c.w, c.r, c.site.unopened())
		}
		if p := c.leaves(m); p != nil {
			return refuse(c.w, c.r, p)
		}
	}
	return c.say("success")
}

// pushRefused gives one answer to all that are refused: what is wrong with a
// message is for the operator alone.
func (c *call) pushRefused(err error) error {
	c.site.log.Warn("message push refused", zap.String("appid", c.id), zap.Error(err),
		zap.String("address", clientIP(c.r)), zap.String("request", requestID(c.r)))
	return refuse(c.w, c.r, problem.New(problem.PushRefused))
}

// say answers a text. Of a handshake it is the client's own.
func (c *call) say(text string) error {
	h := c.w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	c.w.WriteHeader(http.StatusOK)
	_, _ = io.WriteString(c.w, text)
	return nil
}

// leaves carries out the message that a user has left, and answers in time: what takes
// longer goes on, and WeChat, which sends the message again, finds it done.
func (c *call) leaves(m wechat.PushMessage) *problem.Problem {
	ctx, release := c.seenThrough()
	failed := make(chan *problem.Problem, 1)
	go func() {
		defer release()
		defer func() {
			if p := recover(); p != nil { // no server recovers it here
				failed <- c.site.panicked("panic in an endpoint", p)
			}
		}()
		err := c.leave(ctx, m)
		if err == nil {
			failed <- nil
			return
		}
		c.site.log.Error("a user has left, and was not dealt with to the end: WeChat sends the message again a few times; after that "+
			"use DELETE "+c.site.set.Endpoints+"/service/users/{id}", zap.String("appid", c.id), zap.String("event", m.Event),
			zap.String("openid", m.OpenID), zap.Error(err))
		failed <- unavailable(err)
	}()
	late := time.NewTimer(pushTimeout)
	defer late.Stop()
	select {
	case p := <-failed:
		return p
	case <-late.C:
		return problem.New(problem.StoreUnavailable)
	}
}

// leave ends the sessions of the openid that has left, and erases the user if it
// was their last one. A message that was dealt with before, on whichever replica,
// is dealt with: WeChat sends again what was not answered in time, and nothing
// tells that from what somebody else has recorded and sends again.
func (c *call) leave(ctx context.Context, m wechat.PushMessage) error {
	step := sha256.Sum256(fmt.Appendf(nil, "push %q", []string{c.id, m.Event, m.RevokeInfo, m.OpenID, m.CreatedAt.UTC().String()}))
	if _, dealtWith, err := c.site.store.Kept(ctx, step, c.now); err != nil || dealtWith {
		return err
	}
	ending := c.live.sessions.Ending(session.ReasonRevoked, c.now)
	left, err := c.site.store.Leave(ctx, c.id, m.OpenID, m.CreatedAt.Add(leaveSkew), ending)
	if err != nil {
		return err
	}
	var ended session.Ended
	each := func(ids []string) {
		ended.Add(ids...)
		for _, id := range ids {
			c.live.sessions.Revoked.Add(id, ending.Until)
		}
	}
	each(left.Ended)
	if !left.Returned {
		err = c.site.store.EndOpenID(ctx, c.id, m.OpenID, ending, each)
	}
	c.emitEnded(left.UserID, ended, session.ReasonRevoked)
	if err != nil {
		return err
	}
	erased := false
	if left.Last {
		if erased, err = c.eraseLeft(ctx, left.UserID); err != nil {
			return fmt.Errorf("user %s: %w", left.UserID, err)
		}
	}
	c.site.log.Info("a user has left", zap.String("event", m.Event), zap.String("appid", c.id), zap.String("user", left.UserID),
		zap.Int("ended", ended.Count), zap.Strings("sessions", ended.IDs), zap.Bool("erased", erased), zap.Bool("returned", left.Returned))
	return c.site.store.Keep(ctx, step, []byte(m.Event), c.now.Add(pushKept))
}

// eraseLeft erases a user who has left, unless they have logged in with a phone number
// since: this or another openid may have been under way while WeChat's message came.
func (c *call) eraseLeft(ctx context.Context, id string) (erased bool, err error) {
	erased, ids, err := c.site.directory.EraseLeft(ctx, id)
	if err != nil {
		return false, errors.Join(errDirectory, err)
	}
	if !erased {
		return false, nil
	}
	until := c.live.sessions.Ending(session.ReasonRevoked, c.now).Until
	for _, id := range ids {
		c.live.sessions.Revoked.Add(id, until)
	}
	var ended session.Ended
	ended.Add(ids...)
	c.site.emit(event{"wx_auth_user_erased", map[string]any{"user": id, "count": ended.Count, "sessions": ended.IDs}})
	return true, nil
}
