package api

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/event"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/login"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/metrics"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/remedy"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// attempt holds what is known about a login besides its codes: the client, and how long each
// step took. It outlives the request.
type attempt struct {
	request string // its id
	trace   string // the id of its trace, if it is traced
	limit   *loginLimit

	mu    sync.Mutex
	steps []zap.Field
}

type attemptKey struct{}

// ObserveStep records how long a step of a login took. If other requests joined the
// login, its steps are in the log line of the request that started it.
func ObserveStep(ctx context.Context, step string, took time.Duration, _ error) {
	a, ok := ctx.Value(attemptKey{}).(*attempt)
	if !ok {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.steps = append(a.steps, zap.Duration(step, took))
}

// MarshalLogObject writes the durations of the steps.
func (a *attempt) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, f := range a.steps {
		f.AddTo(enc)
	}
	return nil
}

// OnDone is called once for each login that has ended, whoever joined it or hung up. It
// writes the log line, counts the login, and emits the events.
func (s *Server) OnDone(ctx context.Context, req login.Request, res login.Result, err error) {
	a, ok := ctx.Value(attemptKey{}).(*attempt)
	if !ok {
		return
	}
	s.Metrics.Login(req.App.ID, kindOf(req), s.settle(a, res, err))
	s.logLogin(req, res, err, a)
}

// OnRevoked emits the event for sessions that have ended because the directory refused their user.
func (s *Server) OnRevoked(userID string, ended session.Ended) {
	s.Emit(event.Revoked(userID, ended, session.ReasonRevoked)...)
}

// OnPanic logs a panic while the result of a login is delivered to the store later.
func (s *Server) OnPanic(p any) { s.Panicked("panic in the delivery of a login's result", p) }

// settle ends the reservation of an attempt, and returns the code of its refusal, which
// is empty if it succeeded.
func (s *Server) settle(a *attempt, res login.Result, err error) (code problem.Code) {
	var le *login.Error
	switch {
	case errors.As(err, &le):
		code = le.Code
	case err != nil:
		code = problem.InternalError
		s.Metrics.Panic()
	}
	a.limit.settle(le != nil && le.Refused, err == nil && !res.Replayed)
	return code
}

// kindOf returns the kind of a login for metrics, logs and events.
func kindOf(req login.Request) string {
	if req.PhoneCode == "" {
		return metrics.Silent
	}
	return metrics.Phone
}

// logLogin writes the single log line of a login: its result, the user, and how long
// each step took. If only the operator can fix the cause, the line is an error with a
// remedy.
func (s *Server) logLogin(req login.Request, res login.Result, err error, a *attempt) {
	kind := kindOf(req)
	fields := []zap.Field{zap.String("kind", kind), zap.String("appid", req.App.ID), zap.String("address", req.Address), zap.String("requestId", a.request), zap.Object("steps", a)}
	if a.trace != "" {
		fields = append(fields, zap.String("traceID", a.trace)) // Caddy's tracing uses the same name
	}
	if err == nil {
		fields = append(fields, zap.String("user", res.User.ID), zap.Bool("new", res.User.New), zap.String("session", res.Session.ID))
		if !res.User.Phone.IsZero() {
			fields = append(fields, zap.String("phone", res.User.Phone.Masked()))
		}
		if len(res.Ended) > 0 {
			fields = append(fields, zap.Strings("ended", endedOf(res.Ended).IDs))
		}
		if res.Replaced != "" {
			fields = append(fields, zap.String("replaced", res.Replaced))
		}
		if res.Surplus.Count > 0 {
			fields = append(fields, zap.Int("surplus", res.Surplus.Count), zap.Strings("surplusSessions", res.Surplus.IDs))
		}
		if res.Replayed {
			fields = append(fields, zap.Bool("replayed", true))
		}
		s.Log.Info("login", fields...)
		s.worked()
		if !res.Replayed {
			s.State.streaks.worked(streakOf(wechat.CallSession))
			if kind == metrics.Phone {
				s.State.streaks.worked(streakOf(wechat.CallToken), streakOf(wechat.CallPhone))
			}
		}
		s.emitLogin(res)
		return
	}
	var le *login.Error
	if errors.As(err, &le) && le.Code != problem.RateLimited {
		// Beyond a rate no event is emitted: anyone could otherwise trigger event handlers as
		// often as they like.
		s.Emit(event.Refused(req.App.ID, le.Code, kind))
	}
	s.logFailed("login", err, fields)
}

// logFailed writes the log line of a login, or a change of number, that was refused or
// that panicked.
func (s *Server) logFailed(what string, err error, fields []zap.Field) {
	var le *login.Error
	if !errors.As(err, &le) {
		fields = append(fields, zap.String("code", string(problem.InternalError)), zap.NamedError("cause", err))
		var p *login.Panic
		if errors.As(err, &p) {
			fields = append(fields, zap.String("stack", p.Stack))
		}
		s.Log.Error(what+" failed", append(fields, remedy.Bug.Field(remedyBug))...)
		return
	}
	level := severity(le.Code)
	fields = append(fields, zap.String("code", string(le.Code)), zap.Strings("renew", le.Renew))
	var we *wechat.Error
	var unasked *login.NotCalled
	switch {
	case errors.As(err, &unasked):
		fields = append(fields, zap.NamedError("cause", unasked))
		level = zapcore.InfoLevel // the reason why WeChat is not called was logged before
	case errors.As(err, &we):
		fields = append(fields, wechatFields(we)...)
		switch {
		case we.Repeated:
			level = zapcore.InfoLevel // the cause was logged before, and one error is enough
		case we.Kind.WeChat():
			level = s.levelOf(level, streakOf(we.Call))
		}
		if we.Advice == "" && level >= zapcore.WarnLevel {
			fields = append(fields, WeChatRemedy(we, remedyWeChat))
		}
	default:
		if le.Code == problem.DirectoryUnavailable {
			s.directoryFailed(le.Cause)
		}
		if le.Code == problem.DirectoryUnavailable || le.Code == problem.StoreUnavailable {
			level = s.levelOf(level, string(le.Code))
		}
		if le.Cause != nil {
			fields = append(fields, zap.NamedError("cause", le.Cause))
		}
		if level >= zapcore.WarnLevel {
			fields = append(fields, remedyFor(le.Code, le.Cause))
		}
	}
	if ce := s.Log.Check(level, what+" refused"); ce != nil {
		ce.Write(fields...)
	}
}

// streakOf names the streak of one of WeChat's calls.
func streakOf(call wechat.Call) string { return "wechat " + string(call) }

// emitLogin emits the events of a successful login. It ignores a replay of the same
// codes.
func (s *Server) emitLogin(res login.Result) {
	if res.Replayed {
		return
	}
	var events []event.Event
	if res.User.New {
		events = append(events, event.UserCreated(res.User, res.Session))
	}
	if res.Rebound {
		events = append(events, event.PhoneRebound(res.User, res.Session, endedOf(res.Ended)))
	}
	var replaced session.Ended
	if res.Replaced != "" {
		replaced.Add(res.Replaced)
	}
	events = append(events, event.Revoked(res.User.ID, replaced, session.ReasonReplaced)...)
	events = append(events, event.Revoked(res.User.ID, res.Surplus, session.ReasonMax)...)
	s.Emit(append(events, event.Login(res.User, res.Session))...)
}

// endedOf counts the sessions that ended, and names a bounded number of them.
func endedOf(ids []string) (ended session.Ended) {
	ended.Add(ids...)
	return ended
}

func severity(code problem.Code) zapcore.Level {
	switch code {
	case problem.Misconfigured, problem.StoreUnavailable, problem.DirectoryUnavailable:
		return zapcore.ErrorLevel
	case problem.WeChatUnavailable, problem.WeChatError, problem.WeChatTimeout, problem.UserBlocked:
		return zapcore.WarnLevel
	}
	return zapcore.InfoLevel
}

// wechatFields returns log fields with WeChat's answer and what the operator can do
// about it. They include the address that WeChat saw, because the operator may have to
// whitelist it.
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
		fields = append(fields, WeChatRemedy(e, ""))
	}
	return fields
}

// LogWeChat logs a failure with the access token in the background. After an operator
// error (wrong secret, address not whitelisted), calls pause. Logins that fail during
// the pause are not logged as errors, so this is the only error line.
func (s *Server) LogWeChat(e wechat.Event) {
	fields := []zap.Field{zap.String("appid", e.AppID)}
	level := zapcore.WarnLevel
	var we *wechat.Error
	switch {
	case errors.As(e.Err, &we):
		fields = append(fields, wechatFields(we)...)
		if we.Kind.Operator() {
			level = zapcore.ErrorLevel
		}
		if we.Kind.WeChat() {
			level = s.levelOf(level, streakOf(we.Call))
		}
		if we.Advice == "" {
			fields = append(fields, WeChatRemedy(we, remedyWeChat))
		}
	default:
		level = s.levelOf(level, string(problem.StoreUnavailable))
		fields = append(fields, zap.Error(e.Err), remedy.StoreAway.Of(e.Err, remedyStore))
	}
	s.Log.Log(level, "fetching the access token", fields...)
}
