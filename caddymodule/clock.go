package caddymodule

import (
	"time"

	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/clock"
)

// clockReporter logs when this process's clock begins to be wrong and when it is
// right again. Until then the replica deletes nothing and forgets no revocation.
func (a *Background) clockReporter(s *site) func() {
	off := false
	return func() {
		state := s.shared.clock.State()
		switch {
		case state.Off && !off:
			a.log.Error("the clock of this process is wrong: it does no housekeeping and forgets no revocation until that is over; logins and tokens go on",
				append(clockFields(state), zap.String("store", s.shared.db.String()))...)
		case !state.Off && off:
			a.log.Info("the clock of this process is right again", zap.String("store", s.shared.db.String()))
		}
		off = state.Off
	}
}

func clockFields(state clock.State) []zap.Field {
	cause, remedy := "it differs from the database's clock",
		"synchronize the clocks of this machine and of the database's with NTP (chronyc tracking, timedatectl)"
	if state.Jumped {
		cause, remedy = "it has jumped",
			"synchronize the clock of this machine with NTP; a clock that stays where it is and agrees with the database's is trusted again after an hour"
	}
	return []zap.Field{
		zap.String("cause", cause), zap.Duration("ahead", state.Ahead.Round(time.Second)), zap.String("remedy", remedy),
	}
}
