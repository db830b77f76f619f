package api

import (
	"cmp"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/problem"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/remedy"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// An outage of the store, of WeChat or of the directory has two lines: when it began, and
// when it is over. The lines of the requests that fail meanwhile are not alarms, except
// the first one.

// streakEnds ends a streak after a time without failures, even if nothing has succeeded. The
// next failure is an alarm again.
const streakEnds = time.Minute

// streaks records what keeps failing, from its first failure until it works again. The zero
// value is ready to use.
type streaks struct {
	mu     sync.Mutex
	failed map[string]time.Time // the last failure, by what failed
}

// failing records a failure, and reports whether it is the first one.
func (s *streaks) failing(what string, now time.Time) (first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, again := s.failed[what]
	if s.failed == nil {
		s.failed = make(map[string]time.Time)
	}
	s.failed[what] = now
	return !again || now.Sub(last) > streakEnds
}

// worked ends the streaks of what has worked.
func (s *streaks) worked(what ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range what {
		delete(s.failed, w)
	}
}

// levelOf returns the level at which to log a failure during an outage: the given level for
// the first failure, info for the others.
func (s *Server) levelOf(level zapcore.Level, what string) zapcore.Level {
	if s.State.streaks.failing(what, time.Now()) {
		return level
	}
	return zapcore.InfoLevel
}

// worked records that the store works, and the directory if it is an external one.
func (s *Server) worked() {
	s.State.streaks.worked(string(problem.StoreUnavailable), string(problem.DirectoryUnavailable))
	if s.External {
		s.State.directory.Worked(func(after time.Duration) {
			s.Log.Info("the directory of users: back again", zap.Duration("after", after))
		})
	}
}

// directoryFailed records that the directory does not answer.
func (s *Server) directoryFailed(err error) {
	s.State.directory.Failed(func(since time.Time) {
		s.Log.Error("the directory of users: failing since "+since.UTC().Format(time.RFC3339), zap.Error(err), remedy.DirectoryAway.Of(err, remedyDirectory))
	})
}

// These are the remedies for causes that do not name their own.
const (
	remedyStore     = "check that the database runs and can be reached; tokens keep working meanwhile, and logins and refreshes will when it is back"
	remedyDirectory = "check that the service or database of `users` runs and can be reached; tokens keep working meanwhile, and logins and refreshes will when it is back"
	remedyWeChat    = "WeChat, or the network between, is at fault; logins go on by themselves when it is back"
	remedyBug       = "this is a fault of caddy-wx-auth: report it with this line at https://github.com/wx-auth/caddy-wx-auth/issues"
	remedyBlocked   = "WeChat's risk control blocks this user; the mini program's console has its rules, and there is nothing to do here"
)

// remedyFor returns the log fields with what the operator can do about a refusal with
// this code and cause.
func remedyFor(code problem.Code, cause error) zap.Field {
	switch code {
	case problem.StoreUnavailable:
		return remedy.StoreAway.Of(cause, remedyStore)
	case problem.DirectoryUnavailable:
		return remedy.DirectoryAway.Of(cause, remedyDirectory)
	case problem.InternalError:
		return remedy.Bug.Of(cause, remedyBug)
	case problem.WeChatUnavailable, problem.WeChatTimeout: // also while another replica waits for WeChat
		return remedy.WeChatAway.Of(cause, remedyWeChat)
	}
	return remedy.DirectoryUnusable.Of(cause, "see the cause")
}

// WeChatRemedy returns the log fields with what the operator can do about WeChat's
// answer, or about none. otherwise is for an error without advice.
func WeChatRemedy(e *wechat.Error, otherwise string) zap.Field {
	h := remedy.WeChatAway
	switch {
	case e.Kind == wechat.KindBadAnswer:
		h = remedy.WeChatNonsense
	case e.Code != 0:
		h = remedy.Errcode
	}
	if e.Kind == wechat.KindBlocked {
		otherwise = remedyBlocked
	}
	return h.Field(cmp.Or(e.Advice, otherwise))
}

// about returns log fields that identify the client and its request.
func (c *call) about(fields ...zap.Field) []zap.Field {
	return append(fields, zap.String("address", c.address()), zap.String("requestId", c.requestID()))
}
