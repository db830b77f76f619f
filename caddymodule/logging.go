package caddymodule

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// steps collects how long each step of one login took, for its line in the log.
type steps struct {
	mu     sync.Mutex
	fields []zap.Field
}

type stepsKey struct{}

// observeStep is what the chain tells of a step. A login that others joined
// writes its steps into the line of the one who started it.
func observeStep(ctx context.Context, step string, took time.Duration, _ error) {
	s, ok := ctx.Value(stepsKey{}).(*steps)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fields = append(s.fields, zap.Duration(step, took))
}

func (s *steps) all() []zap.Field {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]zap.Field(nil), s.fields...)
}

// logLogin writes the one line of a login: what came of it, who it was and how
// long each step took. What is the operator's to mend is an error that says
// what to do.
func (c *call) logLogin(req login.Request, res login.Result, err error, st *steps) {
	kind := "phone"
	if req.PhoneCode == "" {
		kind = "silent"
	}
	fields := []zap.Field{zap.String("kind", kind), zap.String("appid", req.App.ID), zap.String("request", requestID(c.r))}
	fields = append(fields, zap.Object("steps", zapcore.ObjectMarshalerFunc(func(enc zapcore.ObjectEncoder) error {
		for _, f := range st.all() {
			f.AddTo(enc)
		}
		return nil
	})))
	if err == nil {
		fields = append(fields, zap.String("user", res.User.ID), zap.Bool("new", res.User.New), zap.String("session", res.Session.ID))
		if !res.User.Phone.IsZero() {
			fields = append(fields, zap.String("phone", res.User.Phone.Masked()))
		}
		if len(res.Ended) > 0 {
			fields = append(fields, zap.Strings("ended", res.Ended))
		}
		c.site.log.Info("login", fields...)
		c.emitLogin(res)
		return
	}
	level := zapcore.InfoLevel
	var le *login.Error
	if errors.As(err, &le) {
		level = severity(le.Code)
		fields = append(fields, zap.String("code", string(le.Code)), zap.Strings("renew", le.Renew))
		c.site.emit(c.r.Context(), "wx_auth_refused", map[string]any{"appid": req.App.ID, "code": string(le.Code), "kind": kind})
	} else {
		fields = append(fields, zap.String("code", "hung_up"))
	}
	var we *wechat.Error
	if errors.As(err, &we) {
		fields = append(fields, wechatFields(we)...)
		if we.Repeated {
			level = zapcore.InfoLevel // it was said before; one error is enough
		}
	} else if le != nil && le.Cause != nil {
		fields = append(fields, zap.NamedError("cause", le.Cause))
	}
	if ce := c.site.log.Check(level, "login refused"); ce != nil {
		ce.Write(fields...)
	}
}

func severity(code login.Code) zapcore.Level {
	switch code {
	case login.Misconfigured, login.StoreUnavailable, login.DirectoryUnavailable:
		return zapcore.ErrorLevel
	case login.WeChatUnavailable, login.WeChatError, login.WeChatTimeout, login.UserBlocked:
		return zapcore.WarnLevel
	}
	return zapcore.InfoLevel
}

// wechatFields tells the operator what WeChat said and what to do about it. The
// address that WeChat saw is there to be put into its whitelist.
func wechatFields(e *wechat.Error) []zap.Field {
	fields := []zap.Field{zap.NamedError("cause", e)}
	if e.Code != 0 {
		fields = append(fields, zap.Int("errcode", e.Code))
	}
	if e.RID != "" {
		fields = append(fields, zap.String("rid", e.RID))
	}
	if e.IP != "" {
		fields = append(fields, zap.String("ip", e.IP))
	}
	if e.Advice != "" {
		fields = append(fields, zap.String("remedy", e.Advice))
	}
	return fields
}
