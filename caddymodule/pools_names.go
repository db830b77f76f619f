package caddymodule

import (
	"maps"
	"sync"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/store"
)

// knownNames are the names that this process has recorded in a store, or found there.
// They do not change as long as the store is open, so a reload is compared with them
// while the database is away.
type knownNames struct {
	mu    sync.Mutex
	names store.Names
}

func (k *knownNames) learn(n store.Names) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.names.Directory = n.Directory
	if k.names.WeChat == nil {
		k.names.WeChat = make(map[string]string)
	}
	maps.Copy(k.names.WeChat, n.WeChat)
}

// fit reports whether all names are known. The error is a *[store.NameError] for one that
// is known to be another.
func (k *knownNames) fit(n store.Names) (known bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.names.Directory == "" {
		return false, nil
	}
	if k.names.Directory != n.Directory {
		return false, &store.NameError{Recorded: k.names.Directory, Configured: n.Directory}
	}
	known = true
	for appid, name := range n.WeChat {
		switch k.names.WeChat[appid] {
		case name:
		case "":
			known = false
		default:
			return false, &store.NameError{AppID: appid, Recorded: k.names.WeChat[appid], Configured: name}
		}
	}
	return known, nil
}
