// Package storestate holds the per-process state of one store. It opens the store in
// the background, compares its names, and runs the revocation feed, the housekeeping
// and the announcements of this replica. It knows neither Caddy nor HTTP.
package storestate

import (
	"crypto/rand"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/clock"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/session"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/store"
)

// State is the state that the sites of one store share. It is kept over reloads.
type State struct {
	DB      *store.DB
	Clock   *clock.Clock
	Revoked *session.Revoked
	Feed    *session.Feed

	live    atomic.Int64 // the number of live sessions at the last count; negative: this replica has not counted
	started time.Time

	replica string // name of this process among the replicas
	prefix  string // prefix of the tables
	names   knownNames
	isOpen  chan struct{} // closed when the store is open for the first time
	once    sync.Once
}

// New parses the address of a store. It does not open it.
func New(address, prefix string) (*State, error) {
	c := clock.New()
	db, err := store.New(address, store.Options{Prefix: prefix, Clock: c})
	if err != nil {
		return nil, err
	}
	revoked := session.NewRevoked()
	revoked.Clock = c
	s := &State{
		DB: db, Clock: c, Revoked: revoked, Feed: session.NewFeed(revoked), started: time.Now(),
		replica: rand.Text(), prefix: prefix, isOpen: make(chan struct{}),
	}
	s.live.Store(-1)
	return s, nil
}

// FeedAge returns the time since the revocations of other replicas were last read. Before the first
// read, it returns the time since the store was first used.
func (s *State) FeedAge(now time.Time) time.Duration {
	if !s.Feed.Loaded() {
		return max(now.Sub(s.started), s.Feed.Age(now))
	}
	return s.Feed.Age(now)
}

// Live returns the number of live sessions, if this replica has counted them.
func (s *State) Live() (n int64, known bool) {
	n = s.live.Load()
	return n, n >= 0
}

// WasOpened reports whether the store has been open in this process.
func (s *State) WasOpened() bool {
	select {
	case <-s.isOpen:
		return true
	default:
		return false
	}
}

// Close closes the store. Connections that were opened under its tokens end, because
// their logouts could no longer be noticed.
func (s *State) Close() error {
	s.Revoked.Close()
	return s.DB.Close()
}

// Now returns this process's time, or the database's time while this process's clock is
// wrong.
func (s *State) Now() time.Time { return time.Now().Add(s.Clock.Shift()) }

// opened records that the store is open, and reports whether that is the first time.
func (s *State) opened() (first bool) {
	s.once.Do(func() {
		first = true
		close(s.isOpen)
	})
	return first
}

// knownNames are the names that this process has recorded in a store, or has found there. They do
// not change while the store is open, so a reload can be compared with them even while the database
// is down.
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

// fit reports whether all names are known. The error is a *[store.NameError] for a name
// that differs from the known one.
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
