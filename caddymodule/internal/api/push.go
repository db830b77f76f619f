package api

import (
	"io"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/account"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/remedy"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// pushTimeout bounds the handling of a message. WeChat waits for five seconds and then
// sends it again, up to three times.
const pushTimeout = 4500 * time.Millisecond

// takesPushes reports whether messages of that app are accepted.
func (s *Server) takesPushes(appid string) bool { return s.Apps[appid].Push != nil }

// push accepts what WeChat pushes to an app: first the handshake, when an operator enters the
// address in WeChat's console, and then messages. Only messages about a user who has left have
// an effect.
func (c *call) push() error {
	receiver := c.Apps[c.id].Push
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
		return c.refuse(p)
	}
	m, err := receiver.Open(query, body, c.now)
	if err != nil {
		return c.pushRefused(err)
	}
	if m.Leaves() {
		if c.Opened == nil {
			return c.refuse(c.unopened())
		}
		if p := c.leaves(m); p != nil {
			return c.refuse(p)
		}
	}
	return c.say("success")
}

// pushRefused gives the same answer to everything that is refused. Only the operator
// may learn what is wrong with a message.
func (c *call) pushRefused(err error) error {
	c.Log.Warn("message push refused", zap.String("appid", c.id), zap.Error(err),
		remedy.PushRefused.Field("compare the token, the EncodingAESKey and the secure mode in WeChat's console with `push`; if the address is not WeChat's, there is nothing to do"),
		zap.String("address", c.address()), zap.String("requestId", c.requestID()))
	return c.refuse(problem.New(problem.PushRefused))
}

// say answers with a text. In a handshake, the client chooses the text.
func (c *call) say(text string) error {
	h := c.w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	c.w.WriteHeader(http.StatusOK)
	_, _ = io.WriteString(c.w, text)
	return nil
}

// leaves carries out the message that a user has left, and answers in time. If the work takes
// longer, it continues in the background; WeChat then repeats the message, and the work is
// found done.
func (c *call) leaves(m wechat.PushMessage) *problem.Problem {
	ctx, release := c.seenThrough()
	failed := make(chan *problem.Problem, 1)
	go func() {
		defer release()
		defer func() {
			if p := recover(); p != nil { // no server recovers a panic in this goroutine
				failed <- c.Panicked("panic in an endpoint", p)
			}
		}()
		left, err := c.Accounts.Leave(ctx, c.id, m, c.Apps[c.id].EraseRevoked, c.now)
		if err == nil {
			c.hasLeft(m, left)
			failed <- nil
			return
		}
		c.Log.Error("user data deletion did not complete: WeChat sends the message again a few times; after that "+
			"use DELETE "+c.Prefix+"/service/users/{id}", zap.String("appid", c.id), zap.String("event", m.Event),
			zap.String("openid", m.OpenID), zap.Error(err), zap.String("requestId", c.requestID()),
			remedy.ErasureIncomplete.Of(err, "see the error; when it is fixed, wait for WeChat's next try, or erase the user yourself"))
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

// hasLeft logs what was done. It logs nothing for a message that was handled before.
func (c *call) hasLeft(m wechat.PushMessage, left *account.Left) {
	if left == nil {
		return
	}
	c.Log.Info("a user has left", zap.String("event", m.Event), zap.String("appid", c.id), zap.String("user", left.UserID),
		zap.Int("ended", left.Ended.Count), zap.Strings("sessions", left.Ended.IDs), zap.Bool("detached", left.Detached), zap.Bool("erased", left.Erased), zap.Bool("returned", left.Returned))
}
