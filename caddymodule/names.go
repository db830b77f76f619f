package caddymodule

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/store"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// UsersNamer is a directory of users that names itself. Two directories with one name know
// the same people by the same ids, whatever their modules; a store belongs to one name.
// Without a name, the module's id is the name, and all directories of one store need the
// same settings.
type UsersNamer interface {
	Realm() string
}

// namedDirectory is implemented by our modules: their name is known before they are
// provisioned.
type namedDirectory interface {
	directory(lookup) (directoryName, error)
}

// directoryName says whose ids a site's users have.
type directoryName struct {
	name string
	// written: the configuration sets the name.
	written bool
	// detail holds whatever else decides whose ids these are, if no name is written: two sites
	// of one store must agree on it.
	detail string
	// external: the users are not in the store's own table.
	external bool
	// find is a hash of how users are found there: the query, and the user and the parameters
	// of the URL. It is empty if a name is written, or if nothing is known of that.
	find string
}

// nameOfDirectory returns the name of an external directory, whose settings are raw; or of
// the store's own users, if users is nil.
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
	_ = json.Compact(&settings, raw) // Caddy has read it
	return directoryName{name: id, detail: settings.String()}, nil
}

// directoryOf is nameOfDirectory for a command, which loads no configuration. Our modules
// name themselves without their secrets; another module is provisioned, as that only reads.
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

// placeOf returns a URL's scheme, hosts and path, without user, password, query and
// fragment: one spelling for one database or backend.
func placeOf(address string) string {
	scheme, rest, _ := strings.Cut(address, "://")
	scheme = strings.ToLower(scheme)
	port := webPorts[scheme]
	if kind := store.KindOf(scheme); kind.Port != "" {
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

// detailOf returns a hash of the user and the parameters of a URL, which may lead to other
// users (search_path, ?tenant=…). It is a hash because there may be a key among them.
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

// storeNames returns the names that a site's store must have.
func (s settings) storeNames(d directoryName) store.Names {
	n := store.Names{Directory: d.name, WeChat: make(map[string]string)}
	for _, a := range s.Apps {
		n.WeChat[a.ID] = s.WeChat.nameOf(a.ID)
	}
	return n
}

// warnFindChanged logs that users are found in another way than at the last load.
func (d directoryName) warnFindChanged(log *zap.Logger) {
	what := "the find query of `users sql` has changed since the last load, or the user or the parameters of its URL"
	if strings.HasPrefix(d.name, "webhook:") {
		what = "the user or the parameters of the URL of `users webhook` have changed since the last load"
	}
	log.Warn(what+"; if other people are found now, or the same ones with other ids, sessions and openids in the store belong to the wrong users",
		zap.String("remedy", "if the ids are the same people's, write a name, such as `realm people`, in the block of users: then this is not compared; "+
			"else give this site a store of its own"))
}
