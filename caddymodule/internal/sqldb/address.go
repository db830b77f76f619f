package sqldb

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Kind describes one kind of database.
type Kind struct {
	// Name is "sqlite", "postgres" or "mysql".
	Name string
	// Port is the default port of a server. It is empty if the database is a file.
	Port string
}

// Kinds lists the names of all kinds.
func Kinds() (names []string) {
	for _, d := range dialects {
		names = append(names, d.Name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// KindOf returns the kind of database that an address, or a scheme alone, belongs to. It returns
// the zero Kind if there is none.
func KindOf(address string) Kind {
	if d := DialectOf(address); d != nil {
		return Kind{d.Name, d.Port}
	}
	return Kind{}
}

// DialectOf returns the dialect of the kind of database that an address, or a scheme alone, belongs
// to. It returns nil if there is none.
func DialectOf(address string) *Dialect {
	scheme, _, _ := strings.Cut(address, ":")
	return dialects[scheme]
}

// Canonical returns the one spelling of an address: the path of an SQLite file is absolute, and
// PostgreSQL has its shorter scheme. Sites that use one database share its state under this
// address. Two names of one server are not recognised as the same: their sites work like two
// replicas. An address that [New] refuses may be returned unchanged.
func Canonical(address string) (string, error) {
	kind := KindOf(address)
	if _, rest, _ := strings.Cut(address, ":"); kind.Port != "" {
		return kind.Name + ":" + rest, nil
	}
	path, ok := strings.CutPrefix(address, "sqlite:")
	if !ok {
		return address, nil
	}
	path = strings.TrimPrefix(path, "//")
	if path == "" || strings.HasSuffix(path, "/") || strings.HasPrefix(path, ":") || strings.HasPrefix(path, "file:") {
		return address, nil
	}
	if strings.HasPrefix(path, "~") {
		return "", errors.New("~ is not expanded: write the whole path, sqlite:/var/lib/…")
	}
	abs, err := filepath.Abs(path)
	return "sqlite:" + abs, err
}

// serverAddress is the parsed address of a database server.
type serverAddress struct {
	authority      string // user, password and hosts, as written
	user, password string
	hosts          string // one host, or several separated by commas, with ports
	database       string
	query          url.Values
}

var (
	hostsForm    = regexp.MustCompile(`^(?:[A-Za-z0-9._%-]*|\[[0-9A-Fa-f:.%A-Za-z]+\])(?::[0-9]{1,5})?(?:,(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?)*$`)
	databaseForm = regexp.MustCompile(`^[^/@:?#\x00-\x20]*$`)
)

// parseServer parses an address of the given form by hand. net/url repeats the whole address,
// including the password, in its errors, and does not support lists of hosts. If a password
// contains an unescaped character, a piece of it can end up in another part of the address. So no
// error here repeats any part of the address.
func parseServer(db *DB, address, form string) (serverAddress, error) {
	scheme, rest, _ := strings.Cut(address, ":")
	fail := func(what string) (serverAddress, error) {
		return serverAddress{}, fmt.Errorf("%s: %s: write %s, with special characters in the password percent-encoded (@ is %%40, / is %%2F, # is %%23, ? is %%3F, %% is %%25)", scheme, what, form)
	}
	rest, ok := strings.CutPrefix(rest, "//")
	if !ok || strings.Contains(rest, "#") {
		return fail("the address cannot be read")
	}
	rest, query, _ := strings.Cut(rest, "?")
	authority, database, _ := strings.Cut(rest, "/")
	a := serverAddress{authority: authority, hosts: authority}
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		var err1, err2 error
		user, password, _ := strings.Cut(authority[:i], ":")
		a.user, err1 = url.PathUnescape(user)
		a.password, err2 = url.PathUnescape(password)
		a.hosts = authority[i+1:]
		if errors.Join(err1, err2) != nil {
			return fail("the user or the password cannot be read")
		}
		// Errors may contain the password as written in the address or as decoded for the driver.
		db.secrets = append(db.secrets, password, a.password)
	}
	var err error
	if a.database, err = url.PathUnescape(database); err != nil || !hostsForm.MatchString(a.hosts) || !databaseForm.MatchString(a.database) {
		return fail("the host or the database cannot be read")
	}
	if a.query, err = url.ParseQuery(query); err != nil {
		return fail("the parameters cannot be read")
	}
	for name, values := range a.query {
		if len(values) != 1 || !parameterForm.MatchString(name) {
			return fail("the parameters cannot be read")
		}
	}
	where := a.hosts
	if a.user != "" {
		where = a.user + "@" + where
	}
	db.url = db.Dialect.Name + " " + where + "/" + a.database
	db.label = db.Dialect.Name + ":" + a.hosts + "/" + a.database
	return a, nil
}

var parameterForm = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_.-]*$`)
