package replicas

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// thief has a copy of the database and of the encryption key, and has read how the
// gateway works.
type thief struct {
	key      []byte
	kid      string
	signing  *ecdsa.PrivateKey
	counters map[string]uint64 // by session
}

// steal copies the database and the key.
func steal(t *testing.T, db *rig.Database) *thief {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(db.Key)
	if err != nil {
		t.Fatal(err)
	}
	th := &thief{key: raw, counters: make(map[string]uint64)}
	var sealed []byte
	if err := db.QueryRow("SELECT id, private_key FROM wx_auth_signing_keys").Scan(&th.kid, &sealed); err != nil {
		t.Fatal(err)
	}
	var aad []byte
	for _, part := range []string{"signing_keys", "private_key", th.kid} {
		aad = append(binary.BigEndian.AppendUint32(aad, uint32(len(part))), part...)
	}
	block, err := aes.NewCipher(th.derive(t, "seal at rest"))
	if err != nil {
		t.Fatal(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	const head = 1 + 4
	text, err := gcm.Open(nil, sealed[head:head+gcm.NonceSize()], sealed[head+gcm.NonceSize():], aad)
	if err != nil {
		t.Fatal(err)
	}
	var jwk struct{ D string }
	if err := json.Unmarshal(text, &jwk); err != nil {
		t.Fatal(err)
	}
	d, err := base64.RawURLEncoding.DecodeString(jwk.D)
	if err != nil {
		t.Fatal(err)
	}
	if th.signing, err = ecdsa.ParseRawPrivateKey(elliptic.P256(), d); err != nil {
		t.Fatal(err)
	}
	rows, err := db.Query("SELECT id, counter FROM wx_auth_sessions")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		var counter uint64
		if err := rows.Scan(&id, &counter); err != nil {
			t.Fatal(err)
		}
		th.counters[id] = counter
	}
	return th
}

func (th *thief) derive(t *testing.T, purpose string) []byte {
	t.Helper()
	key, err := hkdf.Key(sha256.New, th.key, nil, "caddy-wx-auth/1 "+purpose, 32)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// token mints a token with the sealed claims of a token that the thief has seen. It is valid
// from now on.
func (th *thief) token(t *testing.T, like string) string {
	t.Helper()
	claims := rig.JWTPart(t, like, 1)
	claims["iat"], claims["exp"], claims["jti"] = time.Now().Unix(), time.Now().Add(time.Hour).Unix(), rand.Text()
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut(like, ".")
	signed := head + "." + base64.RawURLEncoding.EncodeToString(payload)
	sum := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, th.signing, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	mac := make([]byte, 64)
	r.FillBytes(mac[:32])
	s.FillBytes(mac[32:])
	return signed + "." + base64.RawURLEncoding.EncodeToString(mac)
}

// refreshToken makes the newest refresh token of a session.
func (th *thief) refreshToken(t *testing.T, session string) string {
	t.Helper()
	key := th.derive(t, "refresh mac")
	mac := func(text []byte) []byte {
		m := hmac.New(sha256.New, key)
		m.Write(text)
		return m.Sum(nil)
	}
	id, err := hex.DecodeString(strings.ReplaceAll(session, "-", ""))
	if err != nil {
		t.Fatal(err)
	}
	raw := append([]byte{1}, mac([]byte("wx-auth refresh key id"))[:4]...)
	raw = binary.BigEndian.AppendUint64(append(raw, id...), th.counters[session])
	return base64.RawURLEncoding.EncodeToString(append(raw, mac(raw)...))
}

// command runs a command with a configuration.
func command(t *testing.T, r *rig.Gateway, caddyfile string, args ...string) (string, error) {
	t.Helper()
	path := filepath.Join(r.Caddy.Home, "Caddyfile.command")
	if err := os.WriteFile(path, []byte(caddyfile), 0o600); err != nil {
		t.Fatal(err)
	}
	return r.Caddy.Command(append(append([]string{"wx-auth"}, args...), "--config", path, "--adapter", "caddyfile")...)
}

// keyed is a site with encryption keys from the environment.
func keyed(keys string, options ...string) string {
	return rig.GatewaySite(append([]string{"store {env.WX_AUTH_STORE}", "encryption_key " + keys}, options...)...)
}

const (
	oldKey, newKey = "{env.WX_AUTH_KEY}", "{env.WX_AUTH_KEY_NEW}"
	oldNew, newOld = oldKey + " " + newKey, newKey + " " + oldKey
)

func newEncryptionKey() string {
	raw := make([]byte, 32)
	_, _ = rand.Read(raw) // never fails
	return base64.StdEncoding.EncodeToString(raw)
}

// keyedReplicas starts two replicas with the old key; the new one is in their
// environment.
func keyedReplicas(t *testing.T, db *rig.Database, options ...string) []*rig.Gateway {
	t.Helper()
	replicas := rig.PrepareReplicasOf(t, db, 2, faster(t))
	next := newEncryptionKey()
	for _, r := range replicas {
		r.Caddy.Setenv("WX_AUTH_KEY_NEW", next)
	}
	rig.StartReplicas(t, replicas, keyed(oldKey, options...))
	return replicas
}

// A thief has a copy of the database and the key. He mints tokens with the signing keys and
// his own token's sealed claims, and makes refresh tokens for everybody. From the step results
// he reads whose code was whose. After the documented procedure, no replica accepts any of
// this, and users log in again as the users that they were.
func TestThiefOfStoreAndKeyIsThrownOut(t *testing.T) {
	t.Parallel()
	rig.OnDatabases(t, func(t *testing.T, db *rig.Database) {
		replicas := keyedReplicas(t, db)
		here, there := replicas[0], replicas[1]
		owner, victim := here.MustLogin(t, "13800138000"), here.MustLogin(t, "13900139000")
		codes := here.WeChat.Tap(t, "13700137000")
		here.Login(codes.Code, codes.PhoneCode).Pair(t)
		th := steal(t, db)
		ownersSession, victimsSession := rig.SessionOf(t, owner.Token), rig.SessionOf(t, victim.Token)

		forged := th.token(t, owner.Token)
		for _, r := range replicas {
			r.Get("/", forged).Seen(t).WantHeader(t, "X-WX-PHONE", "+8613800138000")
		}
		here.Refresh(th.refreshToken(t, victimsSession)).Pair(t) // the attack does work before the procedure
		here.Upstream.SetHandler(http.HandlerFunc(switchProtocols))
		socket := openSocket(t, here.Caddy.Addr, forged)
		here.Upstream.SetHandler(nil)

		// The operator follows the procedure, at first with a mistake.
		if out, err := command(t, here, keyed(newOld), "rekey", "--compromised"); err == nil || !strings.Contains(out, "2 of 2 replicas do not have the newest encryption key") {
			t.Fatalf("rekey before the replicas have the key: %v\n%s", err, out)
		}
		here.WantAlive(t, owner)
		for _, keys := range []string{oldNew, newOld} {
			for _, r := range replicas {
				r.MustReload(t, keyed(keys))
			}
		}
		out, err := command(t, here, keyed(newOld), "rekey", "--compromised")
		if err != nil || !strings.Contains(out, "everything is sealed with the newest key") || !strings.Contains(out, "3 sessions were ended") {
			t.Fatalf("%v\n%s", err, out)
		}
		for _, table := range []string{"kept_steps", "access_tokens", "revocations"} {
			if n := db.Count(t, "SELECT COUNT(*) FROM wx_auth_"+table); n != 0 {
				t.Errorf("%d rows are left in %s", n, table)
			}
		}
		refused := func(when string) {
			t.Helper()
			for i, r := range replicas {
				for name, token := range map[string]string{"minted": th.token(t, owner.Token), "minted before": forged, "the owner's": owner.Token} {
					rig.Await(t, patience, "refused: "+name, func() bool { return r.Get("/", token).Status == http.StatusUnauthorized })
				}
				for _, session := range []string{ownersSession, victimsSession} {
					if a := r.Refresh(th.refreshToken(t, session)); a.Status != http.StatusUnauthorized {
						t.Errorf("%s, replica %d: a made refresh token: %d %s", when, i, a.Status, a.Body)
					}
				}
				if a := r.Login(codes.Code, codes.PhoneCode); a.Status == http.StatusOK {
					t.Errorf("%s, replica %d: spent codes: %d %s", when, i, a.Status, a.Body)
				}
			}
		}
		refused("after rekey")
		select {
		case <-socket:
		case <-time.After(patience):
			t.Error("the thief's WebSocket lives on")
		}
		back := there.MustLogin(t, "13800138000")
		if back.UserInfo.ID != owner.UserInfo.ID || back.UserInfo.IsNew {
			t.Errorf("the owner is %+v", back.UserInfo)
		}
		silent := here.Silent(here.WeChat.Open(t, "13900139000").Code).Pair(t)
		if silent.UserInfo.ID != victim.UserInfo.ID {
			t.Errorf("silently: %+v", silent.UserInfo)
		}
		for _, r := range replicas {
			r.WantAlive(t, back)
		}

		for _, r := range replicas {
			r.MustReload(t, keyed(newKey))
		}
		if out, err := command(t, here, keyed(newKey), "rekey"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		refused("at the end")
		for _, r := range replicas {
			r.WantAlive(t, back)
		}
		here.Refresh(silent.RefreshToken).Pair(t)
		there.Refresh(back.RefreshToken).Pair(t)
	})
}

// An operator runs rekey before every replica has the new key. The command refuses, and names
// the replicas that lack the key. With --force it continues. A replica without the key then
// answers 503 `misconfigured` where it cannot read the data, with the remedy in the log. After
// a reload everything works again.
func TestRekeyWaitsForEveryReplica(t *testing.T) {
	t.Parallel()
	rig.OnDatabases(t, func(t *testing.T, db *rig.Database) {
		replicas := keyedReplicas(t, db)
		here, late := replicas[0], replicas[1]
		p := here.MustLogin(t, number)
		here.MustReload(t, keyed(newOld))
		out, err := command(t, here, keyed(newOld), "rekey")
		if err == nil || !strings.Contains(out, "1 of 2 replicas do not have the newest encryption key") || !strings.Contains(out, "--force") {
			t.Fatalf("rekey: %v\n%s", err, out)
		}
		late.WantAlive(t, p)
		next := late.Refresh(p.RefreshToken).Pair(t)
		if out, err := command(t, here, keyed(newOld), "rekey", "--force"); err != nil {
			t.Fatalf("rekey --force: %v\n%s", err, out)
		}
		late.Refresh(next.RefreshToken).WantProblem(t, http.StatusServiceUnavailable, "misconfigured", nil)
		codes := late.WeChat.Tap(t, number)
		late.Login(codes.Code, codes.PhoneCode).WantProblem(t, http.StatusServiceUnavailable, "misconfigured", []string{})
		late.Caddy.Log.Wait(t, patience, "encryption_key <new> <old>", `"remedy"`)
		late.MustReload(t, keyed(newOld))
		late.Login(codes.Code, codes.PhoneCode).Pair(t)
		late.Refresh(next.RefreshToken).Pair(t)
		for _, secret := range []string{db.Key, late.Caddy.Getenv("WX_AUTH_KEY_NEW")} {
			if strings.Contains(out+late.Caddy.Log.String(), secret) {
				t.Error("an encryption key was printed")
			}
		}
	})
}

// The signing key is in the configuration, where the command cannot replace it, so tokens
// would outlive their sessions. The command begins only once another key is configured.
func TestConfiguredKeyIsChangedFirst(t *testing.T) {
	t.Parallel()
	db := rig.NewDatabase(t, "sqlite")
	token := func(secret string) string { return "token {\nalgorithm HS256\nkey {env." + secret + "}\n}" }
	replicas := rig.PrepareReplicasOf(t, db, 1, faster(t))
	r := replicas[0]
	for _, name := range []string{"WX_AUTH_KEY_NEW", "SIGN_OLD", "SIGN_NEW"} {
		r.Caddy.Setenv(name, newEncryptionKey())
	}
	r.Start(t, keyed(newOld, token("SIGN_OLD")))
	p := r.MustLogin(t, number)
	for range 2 {
		out, err := command(t, r, keyed(newOld, token("SIGN_OLD")), "rekey", "--compromised")
		if err == nil || !strings.Contains(out, "token { key") {
			t.Fatalf("%v\n%s", err, out)
		}
		r.WantAlive(t, p)
		if n := db.Count(t, "SELECT COUNT(*) FROM wx_auth_sessions WHERE ended_at = 0"); n != 1 {
			t.Errorf("%d sessions", n)
		}
	}
	r.MustReload(t, keyed(newOld, token("SIGN_NEW")))
	if out, err := command(t, r, keyed(newOld, token("SIGN_NEW")), "rekey", "--compromised"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	r.Get("/", p.Token).Want(t, http.StatusUnauthorized)
	r.Refresh(p.RefreshToken).Want(t, http.StatusUnauthorized)
}
