package caddymodule

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/clock"
)

// announceEvery is how often a replica says in the store that it runs and which
// encryption keys it has: several times in store.ReplicaUp, so that one failure is
// not missed. `caddy wx-auth rekey` asks for it.
const announceEvery = 25 * time.Second

func (a *Background) announce(ctx context.Context, s *site) {
	a.announceOnce(ctx, s)
	for clock.Sleep(ctx, announceEvery) {
		a.announceOnce(ctx, s)
	}
}

// announceOnce logs a failure at debug level only: what it means is that the store is
// away, which others log.
func (a *Background) announceOnce(ctx context.Context, s *site) {
	if err := s.store.Announce(ctx, s.shared.name); err != nil && ctx.Err() == nil {
		a.log.Debug("announcing this replica", zap.Error(err))
	}
}
