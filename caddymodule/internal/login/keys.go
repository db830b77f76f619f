package login

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"sync"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// Key names a step or a login: a hash of its codes. Each part is hashed with its length, so
// that two different lists of parts never have the same key.
type Key = [sha256.Size]byte

func keyOf(kind string, parts ...string) Key {
	h := sha256.New()
	var n [8]byte
	write := func(s string) {
		binary.BigEndian.PutUint64(n[:], uint64(len(s)))
		h.Write(n[:])
		h.Write([]byte(s))
	}
	write(kind)
	for _, p := range parts {
		write(p)
	}
	var k Key
	h.Sum(k[:0])
	return k
}

func loginStep(r Request) Key { return keyOf("code", r.parts(r.App.ID, r.Code)...) }
func phoneStep(r Request) Key { return keyOf("phone", r.parts(r.App.ID, r.PhoneCode)...) }

// parts adds the app's WeChat to the parts of a key, because another WeChat may give
// the same code for the same appid to somebody else. It adds nothing for WeChat itself,
// so that replicas of an older version use the same keys during an upgrade.
func (r Request) parts(parts ...string) []string {
	if r.WeChat == "" || r.WeChat == wechat.Own {
		return parts
	}
	return append([]string{r.WeChat}, parts...)
}

// directoryID identifies a login for the directory. It is the same for all attempts
// with one phone code, which is paid for once, or with the login code of a silent
// login.
func directoryID(issuer string, r Request) string {
	k := keyOf("directory", r.parts(issuer, r.App.ID, r.PhoneCode)...)
	if r.PhoneCode == "" {
		k = keyOf("directory", r.parts(issuer, r.App.ID, "", r.Code)...)
	}
	return base64.RawURLEncoding.EncodeToString(k[:18])
}

// locks are the keys on which logins of this process are working. The zero value is
// ready to use.
type locks struct {
	mu   sync.Mutex
	held map[Key]chan struct{} // closed at unlock
}

// try locks the key if it is free.
func (l *locks) try(k Key) bool {
	_, free := l.take(k)
	return free
}

func (l *locks) take(k Key) (held chan struct{}, free bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if held, busy := l.held[k]; busy {
		return held, false
	}
	if l.held == nil {
		l.held = make(map[Key]chan struct{})
	}
	l.held[k] = make(chan struct{})
	return nil, true
}

// lock locks the key, or returns ctx's error.
func (l *locks) lock(ctx context.Context, k Key) error {
	for {
		held, free := l.take(k)
		if free {
			return nil
		}
		select {
		case <-held:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (l *locks) unlock(k Key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.held[k])
	delete(l.held, k)
}

// recent is a set of keys that are removed automatically after a time. The zero value
// is ready to use.
type recent struct {
	mu    sync.Mutex
	until map[Key]time.Time
}

// maxRecent bounds the memory of a set.
const maxRecent = 4096

func (r *recent) add(k Key, now, until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.until == nil {
		r.until = make(map[Key]time.Time)
	}
	for old, end := range r.until {
		if now.After(end) || len(r.until) >= maxRecent {
			delete(r.until, old)
		}
	}
	r.until[k] = until
}

func (r *recent) has(k Key, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	until, ok := r.until[k]
	return ok && !now.After(until)
}

func (r *recent) remove(k Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.until, k)
}
