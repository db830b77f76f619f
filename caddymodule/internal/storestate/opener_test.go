package storestate

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/store"
)

// opened is the result of Assemble in these tests.
type opened struct{ keys *store.Keys }

func newState(t *testing.T, path string) *State {
	t.Helper()
	s, err := New("sqlite:"+path, "wx_auth_")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func newSite(s *State, directory string) *Opener[opened] {
	return NewOpener(Site[opened]{
		State: s, Store: s.DB.With(nil), Names: store.Names{Directory: directory, WeChat: map[string]string{"wx1": "weixin.qq.com"}},
		Identified: func(string) error { return nil },
		LoadRing:   func(context.Context) error { return nil }, KeysLoaded: func() bool { return true },
		Assemble:    func(k *store.Keys) (*opened, error) { return &opened{k}, nil },
		Explain:     func(err error) error { return err },
		FindChanged: func() {}, Log: zap.NewNop(),
	})
}

// A request arrives while the store is being opened. It waits until the first attempt has ended,
// and no longer.
func TestReadyWaitsForTheFirstAttempt(t *testing.T) {
	o := newSite(newState(t, filepath.Join(t.TempDir(), "wx.db")), "store")
	ready := make(chan *opened)
	go func() { ready <- o.Ready(t.Context()) }()
	if err := o.Open(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	o.Tried()
	if got := <-ready; got == nil || got.keys == nil || !o.IsOpen() || !o.Recorded() {
		t.Errorf("got %+v", got)
	}
}

// A client that hangs up stops waiting, and does not make others wait longer.
func TestReadyEndsWithTheRequest(t *testing.T) {
	o := newSite(newState(t, filepath.Join(t.TempDir(), "wx.db")), "store")
	ctx, hangUp := context.WithCancel(t.Context())
	hangUp()
	if o.Ready(ctx) != nil || o.away.Load() {
		t.Error("a store that nobody opened is ready, or counts as away")
	}
}

// A reload continues with the open store. It refuses the users of another directory without asking
// the database.
func TestResume(t *testing.T) {
	s := newState(t, filepath.Join(t.TempDir(), "wx.db"))
	if err := newSite(s, "store").Open(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	same := newSite(s, "store")
	if err := same.Resume(t.Context()); err != nil || !same.IsOpen() || !same.Recorded() {
		t.Errorf("the same directory: %v", err)
	}
	other := newSite(s, "sql:postgres://db/app")
	var refused *store.NameError
	if err := other.Resume(t.Context()); !errors.As(err, &refused) || other.IsOpen() {
		t.Errorf("another directory: %v", err)
	}
}

// The store turns out to belong to another directory when it is opened. The site stays
// closed, and answers that only the operator can fix it.
func TestOpenRefusesAnotherDirectory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wx.db")
	first := newState(t, path)
	if err := newSite(first, "store").Open(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	o := newSite(newState(t, path), "sql:postgres://db/app")
	if err := o.Open(t.Context(), time.Minute); !errors.As(err, new(*store.NameError)) {
		t.Fatal(err)
	}
	if o.IsOpen() || o.Recorded() || !o.Misconfigured() {
		t.Error("the site is open, or not reported as misconfigured")
	}
}

// Two steps at the same time could record names that the other step has just refused.
func TestStepsTakeTurns(t *testing.T) {
	o := newSite(newState(t, filepath.Join(t.TempDir(), "wx.db")), "store")
	o.turn <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := o.Open(ctx, time.Minute); !errors.Is(err, store.ErrUnavailable) || o.Misconfigured() {
		t.Errorf("got %v", err)
	}
}
