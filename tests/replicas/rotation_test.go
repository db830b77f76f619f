package replicas

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// thirtyTimesFaster divides the times of key rotation by thirty: a new key is known 20
// s before it signs, replicas read the keys every 2 s and at most three times a second
// for an unknown one, and a JWKS may be cached for 10 s. So a key can be rotated every
// 10 s.
var thirtyTimesFaster = []rig.Change{
	{File: "caddymodule/internal/token/ring.go", Old: "publishAhead = 10 * time.Minute", New: "publishAhead = 20 * time.Second"},
	{File: "caddymodule/internal/token/ring.go", Old: "clockSkew = time.Minute", New: "clockSkew = 2 * time.Second"},
	{File: "caddymodule/internal/token/ring.go", Old: "removeAfter = 10 * time.Minute", New: "removeAfter = 20 * time.Second"},
	{File: "caddymodule/app.go", Old: "ringEvery = time.Minute", New: "ringEvery = 2 * time.Second"},
	{File: "caddymodule/internal/token/tokens.go", Old: "reloadEvery = 10 * time.Second", New: "reloadEvery = 333 * time.Millisecond"},
	{File: "caddymodule/settings_token.go", Old: "leastRotate = time.Hour", New: "leastRotate = 10 * time.Second"},
	{File: "caddymodule/internal/api/me.go", Old: `"max-age=300"`, New: `"max-age=10"`},
}

var fasterBinary struct {
	sync.Mutex
	path string
}

// faster returns the path of a binary with these times.
func faster(t testing.TB) string {
	fasterBinary.Lock()
	defer fasterBinary.Unlock()
	if fasterBinary.path == "" {
		fasterBinary.path = rig.BuildWith(t, "faster", thirtyTimesFaster)
	}
	return fasterBinary.path
}

// backend verifies tokens itself. It caches a JWKS for exactly as long as its Cache-Control
// allows, whatever tokens arrive.
type backend struct {
	client *rig.Client
	keys   map[string]*ecdsa.PublicKey
	until  time.Time
	// early is how much sooner than necessary it fetches its second JWKS. Backends that
	// start together would otherwise fetch in step with each other, and perhaps with
	// the rotation.
	early time.Duration
}

func (b *backend) verify(token string) error {
	if asked := time.Now(); !asked.Before(b.until) {
		a := b.client.Get("/auth/wx/jwks.json", "")
		if a.Err != nil || a.Status != http.StatusOK {
			return fmt.Errorf("fetching the JWKS: %d %v", a.Status, a.Err)
		}
		age, _ := strings.CutPrefix(a.Header.Get("Cache-Control"), "max-age=")
		seconds, err := strconv.Atoi(age)
		if err != nil {
			return err
		}
		b.until, b.early = asked.Add(time.Duration(seconds)*time.Second-b.early), 0
		var set struct{ Keys []struct{ Kid, X, Y string } }
		if err := json.Unmarshal([]byte(a.Body), &set); err != nil {
			return err
		}
		b.keys = make(map[string]*ecdsa.PublicKey)
		for _, k := range set.Keys {
			x, err1 := base64.RawURLEncoding.DecodeString(k.X)
			y, err2 := base64.RawURLEncoding.DecodeString(k.Y)
			if err := errors.Join(err1, err2); err != nil {
				return err
			}
			// SEC 1, section 2.3.3 defines this form of an uncompressed point.
			key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y))
			if err != nil {
				return err
			}
			b.keys[k.Kid] = key
		}
	}
	parts := strings.Split(token, ".")
	head, err1 := base64.RawURLEncoding.DecodeString(parts[0])
	mac, err2 := base64.RawURLEncoding.DecodeString(parts[2])
	var header struct{ Kid string }
	if err := errors.Join(err1, err2, json.Unmarshal(head, &header)); err != nil {
		return err
	}
	key := b.keys[header.Kid]
	if key == nil {
		return fmt.Errorf("the JWKS in the cache, good until %s, does not have the key %s", b.until.Format(time.StampMilli), header.Kid)
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if !ecdsa.Verify(key, sum[:], new(big.Int).SetBytes(mac[:32]), new(big.Int).SetBytes(mac[32:])) {
		return errors.New("the signature is wrong")
	}
	return nil
}

// rotating is a group of users that log in at one replica. They use their tokens, until these
// expire, at both replicas and at a backend that verifies them itself.
type rotating struct {
	*rig.Loops
	mu       sync.Mutex
	signed   map[string]int // kid -> number of tokens
	accepted int
}

func startRotating(t testing.TB, replicas []*rig.Gateway, life time.Duration) *rotating {
	w := &rotating{Loops: rig.NewLoops(t), signed: make(map[string]int)}
	for i := range 4 {
		verifier, n := &backend{client: replicas[(i/2)%2].Client, early: time.Duration(i) * 2500 * time.Millisecond}, 0
		w.Go(0, func() bool {
			r := replicas[(i+n)%2]
			n++
			codes := r.WeChat.Tap(t, fmt.Sprintf("136%08d", i))
			asked := time.Now()
			a := r.Login(codes.Code, codes.PhoneCode)
			if !ok(a) {
				t.Errorf("a login got %d %v %s", a.Status, a.Err, a.Body)
				return false
			}
			p := a.Pair(t)
			kid := rig.JWTPart(t, p.Token, 0)["kid"].(string)
			w.mu.Lock()
			w.signed[kid]++
			w.mu.Unlock()
			for used := 0; used < 4; used++ {
				if time.Since(asked) > life-time.Second {
					break
				}
				for j, other := range replicas {
					if a := other.Get("/", p.Token); !ok(a) && time.Since(asked) < life {
						t.Errorf("a good token of key %s got %d %v on replica %d: %s", kid, a.Status, a.Err, j, a.Body)
					}
				}
				if err := verifier.verify(p.Token); err != nil {
					t.Errorf("a backend refuses a good token: %v", err)
				}
				w.mu.Lock()
				w.accepted += 3
				w.mu.Unlock()
				time.Sleep(100 * time.Millisecond)
			}
			return true
		})
	}
	return w
}

// kids returns the number of keys that have signed.
func (w *rotating) kids() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.signed)
}

func rotationDatabases() []string {
	if rig.Long {
		return rig.Kinds
	}
	return []string{"postgres"}
}

// Keys rotate every ten seconds, as often as possible. No replica and no backend may
// refuse a good token.
func TestFastRotationRejectsNoGoodToken(t *testing.T) {
	t.Parallel()
	for _, kind := range rotationDatabases() {
		t.Run(kind, func(t *testing.T) {
			replicas := rig.PrepareReplicasOf(t, rig.NewDatabase(t, kind), 2, faster(t))
			rig.StartReplicas(t, replicas, rig.ReplicaSite("token {\nrotate 10s\nlifetime 8s\nleeway 2s\n}"))
			w := startRotating(t, replicas, 8*time.Second)
			keys := rig.Rounds(4, 20)
			rig.Await(t, time.Duration(keys+6)*10*time.Second, fmt.Sprintf("%d keys have signed", keys), func() bool { return w.kids() >= keys || t.Failed() })
			w.End()
			t.Logf("%s: %d keys signed, %d times a good token was accepted, and never refused", kind, w.kids(), w.accepted)
		})
	}
}

// An operator rotates the keys by hand, then drops a leaked one. The next key must be known
// everywhere before it signs.
func TestRotatedKeyIsKnownBeforeItSigns(t *testing.T) {
	t.Parallel()
	for _, kind := range rotationDatabases() {
		t.Run(kind, func(t *testing.T) {
			replicas := rig.PrepareReplicasOf(t, rig.NewDatabase(t, kind), 2, faster(t))
			a := replicas[0]
			rig.StartReplicas(t, replicas, rig.ReplicaSite("token {\nlifetime 1m\nleeway 2s\n}"))
			w := startRotating(t, replicas, time.Minute)
			rig.Await(t, patience, "a key has signed", func() bool { return w.kids() == 1 })
			command := func(args ...string) string {
				out, err := a.Caddy.Command(append([]string{"wx-auth", "keys"}, append(args, "--config", filepath.Join(a.Caddy.Home, "Caddyfile"))...)...)
				if err != nil {
					t.Fatalf("keys %q: %v\n%s", args, err, out)
				}
				return out
			}
			command("rotate")
			rig.Await(t, 60*time.Second, "the next key signs", func() bool { return w.kids() == 2 })
			time.Sleep(time.Second)
			w.End()
			t.Logf("%s: %d times a good token was accepted, and never refused", kind, w.accepted)

			// The key has leaked. Its tokens are refused everywhere, and all users get tokens
			// by the next key.
			p := a.MustLogin(t, number)
			kid := rig.JWTPart(t, p.Token, 0)["kid"].(string)
			command("rotate", "--compromised", kid)
			for _, r := range replicas {
				rig.Await(t, patience, "its tokens are refused", func() bool { return !ok(r.Get("/", p.Token)) })
				r.Get("/", p.Token).WantProblem(t, http.StatusUnauthorized, "token_invalid", nil)
			}
			next := replicas[1].Refresh(p.RefreshToken).Pair(t)
			if rig.JWTPart(t, next.Token, 0)["kid"] == kid {
				t.Error("it signs still")
			}
			for _, r := range replicas {
				rig.Await(t, 5*time.Second, "the next key is known", func() bool { return ok(r.Get("/", next.Token)) })
			}
		})
	}
}
