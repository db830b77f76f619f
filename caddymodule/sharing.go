package caddymodule

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/remedy"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/store"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat"
)

// UsersNamer is a directory of users that has a name. Two directories with the same name know
// the same people by the same ids, whatever their modules. A store belongs to one name. A
// directory without a name is named by its module's id, and all directories of one store then
// need the same settings.
type UsersNamer interface {
	Realm() string
}

// namedDirectory is implemented by our own modules, whose name is known before they are
// provisioned.
type namedDirectory interface {
	directory(lookup) (directoryName, error)
}

// directoryName identifies the directory that a site's user ids come from.
type directoryName struct {
	name string
	// written is set if the configuration sets the name.
	written bool
	// detail holds whatever else the ids depend on, if no name is written. Two sites of one
	// store must agree on it.
	detail string
	// external is set if the users are not in the store's own table.
	external bool
	// find is a hash of how the directory finds users: its query, and the user and the
	// parameters of its URL. It is empty if a name is written, or if the module does not say
	// how it finds users.
	find string
}

// nameOfDirectory returns the name of an external directory whose settings are raw. If users
// is nil, it returns the name for the store's own users.
func nameOfDirectory(users user.Directory, raw json.RawMessage, look lookup) (d directoryName, err error) {
	defer func() { d.external = users != nil }()
	switch m := users.(type) {
	case nil:
		return directoryName{name: store.OwnUsers}, nil
	case namedDirectory:
		return m.directory(look)
	case UsersNamer:
		if name := m.Realm(); name != "" {
			return directoryName{name: name, written: true}, nil
		}
	}
	id := fmt.Sprintf("%T", users)
	if m, ok := users.(caddy.Module); ok {
		id = string(m.CaddyModule().ID)
	}
	var settings bytes.Buffer
	_ = json.Compact(&settings, raw) // no error is possible: Caddy has parsed it
	return directoryName{name: id, detail: settings.String()}, nil
}

// directoryOf returns the same for a command, which loads no configuration. Our modules know
// their names without their secrets. Another module is provisioned, which only reads.
func directoryOf(h *Handler) (directoryName, error) {
	if h.UsersRaw == nil {
		return nameOfDirectory(nil, nil, atProvision)
	}
	var source struct {
		Source string `json:"source"`
	}
	if err := json.Unmarshal(h.UsersRaw, &source); err != nil {
		return directoryName{}, misset("users", err)
	}
	info, err := caddy.GetModule(usersNamespace + "." + source.Source)
	if err != nil {
		return directoryName{}, misset("users", err)
	}
	if module := info.New(); isNamed(module) {
		if err := json.Unmarshal(h.UsersRaw, module); err != nil {
			return directoryName{}, misset("users", err)
		}
		return nameOfDirectory(module.(user.Directory), h.UsersRaw, atProvision)
	}
	raw := slices.Clone(h.UsersRaw)
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	users, err := h.loadUsers(ctx)
	if err != nil {
		return directoryName{}, err
	}
	return nameOfDirectory(users, raw, atProvision)
}

func isNamed(module any) bool {
	_, ok := module.(namedDirectory)
	return ok
}

func nameByURL(module, raw, realm string, look lookup) (d directoryName, err error) {
	if d.name, err = resolveRealm(realm, look); err != nil {
		return d, misset("users "+module+" realm", err)
	}
	if d.name != "" {
		d.written = true
		return d, nil
	}
	address, _, err := look(raw, syntax{})
	if err != nil {
		return d, misset("users "+module, err)
	}
	d.name, d.detail = module+":"+placeOf(address), detailOf(address)
	return d, nil
}

// placeOf returns a URL's scheme, hosts and path, without user, password, query and fragment.
// Different URLs of one database or backend so become equal.
func placeOf(address string) string {
	scheme, rest, _ := strings.Cut(address, "://")
	scheme = strings.ToLower(scheme)
	port := webPorts[scheme]
	if kind := sqldb.KindOf(scheme); kind.Port != "" {
		scheme, port = kind.Name, kind.Port
	}
	rest, _, _ = strings.Cut(rest, "#")
	rest, _, _ = strings.Cut(rest, "?")
	authority, path, _ := strings.Cut(rest, "/")
	hosts := strings.Split(strings.ToLower(authority[strings.LastIndexByte(authority, '@')+1:]), ",")
	for i, h := range hosts {
		if host, own := strings.CutSuffix(h, ":"+port); own && port != "" {
			hosts[i] = host
		}
	}
	return scheme + "://" + strings.Join(hosts, ",") + "/" + path
}

// detailOf returns a hash of a URL's user and parameters, which may select other users
// (search_path, ?tenant=…). They are hashed because one of them may be a key.
func detailOf(address string) string {
	rest, query, _ := strings.Cut(address, "?")
	_, rest, _ = strings.Cut(rest, "://")
	authority, _, _ := strings.Cut(rest, "/")
	name := ""
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		name, _, _ = strings.Cut(authority[:at], ":")
	}
	values, err := url.ParseQuery(query)
	if err == nil {
		query = values.Encode()
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q", name, query))
	return hex.EncodeToString(sum[:])
}

// storeNames returns the names that must be recorded in a site's store.
func (s settings) storeNames(d directoryName) store.Names {
	n := store.Names{Directory: d.name, WeChat: make(map[string]string)}
	for _, a := range s.Apps {
		n.WeChat[a.ID] = s.WeChat.nameOf(a.ID)
	}
	return n
}

// warnFindChanged warns that the directory finds users in another way than at the last load.
func (d directoryName) warnFindChanged(log *zap.Logger) {
	what := "the find query of `users sql` has changed since the last load, or the user or the parameters of its URL"
	if strings.HasPrefix(d.name, "webhook:") {
		what = "the user or the parameters of the URL of `users webhook` have changed since the last load"
	}
	log.Warn(what+"; if other people are found now, or the same ones with other ids, sessions and openids in the store belong to the wrong users",
		remedy.DirectoryChanged.Field("if the ids are the same people's, write a name, such as `realm people`, in the block of users: then this is not compared; "+
			"else give this site a store of its own"))
}

// sameStore refuses two directives with the same store and contradictory settings for it.
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

// warnOfSharing logs one line for each store that several sites may share by mistake: its
// users can log in at all of these sites, and a session of one is valid at the others.
func (a *Background) warnOfSharing() {
	var done []*storeState
	for _, s := range a.sites {
		if slices.Contains(done, s.state) {
			continue
		}
		done = append(done, s.state)
		var sharing []*site
		for _, other := range a.sites {
			if other.state == s.state {
				sharing = append(sharing, other)
			}
		}
		a.warnOfSites(sharing)
	}
}

// warnOfSites logs a line if sites of one store seem to share it by mistake. It reports whether
// it did.
func (a *Background) warnOfSites(sharing []*site) bool {
	why := sharedByChance(sharing)
	if len(why) > 0 {
		a.log.Warn("several sites share one store, and with it users, sessions and keys: "+strings.Join(why, "; "),
			zap.String("store", sharing[0].state.DB.String()), zap.Int("sites", len(sharing)),
			remedy.StoreShared.Field("to mean it, write the same line `store`, and the same `register` and `countries`, in each of them, best in a snippet; "+
				"else give one a store of its own (store sqlite:/another/path, or table_prefix another_)"))
	}
	return len(why) > 0
}

// sharedByChance returns the signs that sites share a store by mistake.
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

// ownStore is the remedy that is always possible.
const ownStore = "give one of them a store of its own (store sqlite:/another/path, or table_prefix another_ in the block of store)"

// sameNames refuses two sites of one configuration whose ids mean different people.
func sameNames(what string, a, b directoryName, an, bn store.Names) error {
	if a.name != b.name {
		return misset("users", fmt.Errorf("two sites share %s and have two directories of users, %q and %q, in which one id may mean two people: "+
			"%s; or, if both know the same people by the same ids, write one name in both, such as `realm people` in the block of users (`realm %s` for the store's own ids)",
			what, a.name, b.name, ownStore, store.OwnUsers))
	}
	if a.detail != b.detail && !(a.written && b.written) {
		return misset("users", fmt.Errorf("two sites share %s and the directory %q, and ask it in two ways (another find query, user or parameter), "+
			"so one id may mean two people: %s; or, if both find the same people by the same ids, write one name in both, such as `realm people` in the block of users",
			what, a.name, ownStore))
	}
	for _, appid := range slices.Sorted(maps.Keys(an.WeChat)) {
		if name, shared := bn.WeChat[appid]; shared && name != an.WeChat[appid] {
			return misset("wechat", fmt.Errorf("two sites share %s and take the appid %s from two WeChats, %q and %q, which may give one openid to two people: %s; or, %s",
				what, appid, an.WeChat[appid], name, ownStore, oneWeChat(an.WeChat[appid], name)))
		}
	}
	return nil
}

// oneWeChat is the remedy for two names of one WeChat. WeChat's own hosts always have its own name.
func oneWeChat(a, b string) string {
	if b == wechat.Own {
		a, b = b, a
	}
	if a == wechat.Own {
		return fmt.Sprintf("if %s is a proxy to WeChat itself, write `realm %s` in the block of wechat of the site that uses it", b, wechat.Own)
	}
	return "if both are the same WeChat, write one name in both, such as `realm staging` in the block of wechat"
}

// identified compares a site whose store has just been opened with sites whose store has
// another address: two addresses may lead to the same database. It warns once of each database
// that such sites may share by mistake.
func (a *Background) identified(s *site, identity string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	s.identity = identity
	sharing := []*site{s}
	for _, other := range a.sites {
		if other.state == s.state || other.identity != identity {
			continue
		}
		sharing = append(sharing, other)
		if err := sameNames("the store "+s.state.DB.String()+", which "+other.state.DB.String()+" is too", other.directoryName, s.directoryName, other.names, s.names); err != nil {
			return err
		}
	}
	if !a.shared[identity] && a.warnOfSites(sharing) {
		if a.shared == nil {
			a.shared = make(map[string]bool)
		}
		a.shared[identity] = true
	}
	return nil
}
