package caddymodule

import (
	"errors"
	"slices"
	"strings"

	"go.uber.org/zap"
)

// sameStore refuses two directives that say opposite things of one store.
func sameStore(a, b settings) error {
	const remedy = "write the same in both, best in a snippet that both import"
	switch {
	case a.Store.Migrate != b.Store.Migrate:
		return misset("store migrate", errors.New("another wx_auth with the same store says the opposite: "+remedy))
	case !a.EncryptionKeys.Equal(b.EncryptionKeys):
		return misset("encryption_key", errors.New("another wx_auth with the same store has another one: "+remedy))
	}
	return nil
}

// warnOfSharing logs one line for each store that several sites share and perhaps should
// not: its users can log in at all of them, and a session of one is good at the others.
func (a *Background) warnOfSharing() {
	var done []*shared
	for _, s := range a.sites {
		if slices.Contains(done, s.shared) {
			continue
		}
		done = append(done, s.shared)
		var sharing []*site
		for _, other := range a.sites {
			if other.shared == s.shared {
				sharing = append(sharing, other)
			}
		}
		if why := sharedByChance(sharing); len(why) > 0 {
			a.log.Warn("several sites share one store, and with it users, sessions and keys: "+strings.Join(why, "; "),
				zap.String("store", s.shared.db.String()), zap.Int("sites", len(sharing)),
				zap.String("remedy", "to mean it, write the same line `store`, and the same `register` and `countries`, in each of them, best in a snippet; "+
					"else give one a store of its own (store sqlite:/another/path, or table_prefix another_)"))
		}
	}
}

// sharedByChance returns what speaks against it that sites are meant to share a store.
func sharedByChance(sites []*site) (why []string) {
	unwritten, register, countries := 0, false, false
	for _, s := range sites {
		if s.noStoreLine {
			unwritten++
		}
		register = register || s.set.Register != sites[0].set.Register
		countries = countries || !slices.Equal(slices.Sorted(slices.Values(s.set.Countries)), slices.Sorted(slices.Values(sites[0].set.Countries)))
	}
	if unwritten > 1 {
		why = append(why, "no line `store` says so")
	}
	if register {
		why = append(why, "they differ in `register`, so whom one of them refuses can register at another")
	}
	if countries {
		why = append(why, "they differ in `countries`, so whom one of them refuses can register at another")
	}
	return why
}
