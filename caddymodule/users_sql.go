package caddymodule

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/external"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user/sqldir"
)

// SQLUsers is a directory of users in your own table, in PostgreSQL, MySQL or
// MariaDB, asked by your own queries. They may use the parameters :phone
// (+8613800138000), :country (86), :national (13800138000), :openid, :unionid,
// :appid and :id, the user's id; an unknown value is NULL. Columns named claims.<name>
// become claims. All others, except id and disabled, become members of userInfo, which the
// client sees. A column whose type has more than one form in JSON, such as bytes or an
// array, is refused when the configuration is loaded.
type SQLUsers struct {
	// postgres://… or mysql://…. May contain placeholders.
	URL string `json:"url,omitempty"`

	// Selects the user of a phone number: the column id, and optionally disabled. A user
	// whose disabled is neither false, zero nor NULL cannot log in.
	FindQuery string `json:"find,omitempty"`

	// Creates the user that find did not find. The number needs a unique index. Without this
	// query unknown numbers are refused.
	CreateQuery string `json:"create,omitempty"`

	// Selects the user :id, at each refresh, with the same columns as find.
	CheckQuery string `json:"check,omitempty"`

	// Deletes the user :id. Without this query the row stays.
	EraseQuery string `json:"erase,omitempty"`

	// Gives the user :id the number in :phone, or in :country and :national; all three are
	// NULL if the number is removed. It must change one row. Without this query users cannot
	// change their number.
	PhoneQuery string `json:"phone,omitempty"`

	// The name of this directory. A store belongs to one directory, and records its name: set
	// a name if the database moves to another host, or if two queries find the same people by
	// the same ids. May contain placeholders. Default: sql and the URL without user, password
	// and parameters
	Realm string `json:"realm,omitempty"`

	userDirectory
	address string
}

// CaddyModule returns the Caddy module information.
func (*SQLUsers) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: usersNamespace + ".sql", New: func() caddy.Module { return new(SQLUsers) }}
}

// UnmarshalCaddyfile sets up the module. Syntax:
//
//	users sql <url> {
//	    find   <query>
//	    create <query>
//	    check  <query>
//	    erase  <query>
//	    phone  <query>
//	    realm  <name>
//	}
func (u *SQLUsers) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	query := func(name string, into *string) subdirective {
		return subdirective{name: name, usage: `"<query>"`, least: 1, most: 1, set: text(into)}
	}
	return moduleUnmarshal(d, subdirective{
		name: "users sql", usage: "<url> { find … }", least: 1, most: 1, set: text(&u.URL),
		block: []subdirective{query("find", &u.FindQuery), query("create", &u.CreateQuery), query("check", &u.CheckQuery), query("erase", &u.EraseQuery), query("phone", &u.PhoneQuery),
			{name: "realm", usage: "<name>", least: 1, most: 1, set: text(&u.Realm)}},
	}, func(look lookup) error {
		_, _, err := u.resolve(look)
		if err == nil {
			_, err = u.directory(look)
		}
		return err
	})
}

// Provision sets up the directory. It only reads.
func (u *SQLUsers) Provision(caddy.Context) error {
	address, queries, err := u.resolve(atProvision)
	if err != nil {
		return err
	}
	db, err := acquireExternal(address)
	if err != nil {
		return misset("users sql", err)
	}
	u.address, u.userDirectory = address, &sqldir.Directory{DB: db, Queries: queries}
	return nil
}

// Open implements [UsersOpener].
func (u *SQLUsers) Open(ctx context.Context) error {
	return u.userDirectory.(*sqldir.Directory).Open(ctx)
}

// Cleanup releases the database.
func (u *SQLUsers) Cleanup() error {
	if u.userDirectory != nil {
		_, err := externalPool.Delete(u.address)
		return err
	}
	return nil
}

// Hold implements [UsersHolder].
func (u *SQLUsers) Hold() (release func()) {
	if _, err := acquireExternal(u.address); err != nil {
		return func() {}
	}
	return func() { _, _ = externalPool.Delete(u.address) }
}

// resolve returns the resolved settings, as far as look knows their values.
func (u *SQLUsers) resolve(look lookup) (address string, q sqldir.Queries, err error) {
	if u.URL == "" {
		return "", q, misset("users sql", errors.New("the database's URL is missing: write users sql <url>"))
	}
	address, known, err := look(u.URL, syntax{})
	mysql := false
	if err == nil && known {
		var db *external.Tables
		if db, err = external.New(address); err == nil {
			mysql = db.MySQL()
		}
	}
	if err != nil {
		return "", q, misset("users sql", err)
	}
	for _, set := range [][2]string{{"find", u.FindQuery}, {"create", u.CreateQuery}, {"check", u.CheckQuery}, {"erase", u.EraseQuery}, {"phone", u.PhoneQuery}} {
		// Other braces belong to the SQL: '{}' is an empty JSON object or array.
		for _, p := range placeholder.FindAllString(set[1], -1) {
			if strings.HasPrefix(p, "{env.") || strings.HasPrefix(p, "{file.") {
				return "", q, misset("users sql "+set[0], noPlaceholder(p))
			}
		}
	}
	q, err = u.queries(mysql)
	if err != nil && !known { // only the machine that serves knows the kind of database
		if other, e := u.queries(true); e == nil {
			return address, other, nil
		}
	}
	var qe *sqldir.QueryError
	if errors.As(err, &qe) {
		return "", q, misset("users sql "+qe.Name, errors.Unwrap(err))
	}
	return address, q, err
}

// queries parses the queries for a kind of database.
func (u *SQLUsers) queries(mysql bool) (sqldir.Queries, error) {
	q, err := sqldir.ParseQueries(u.FindQuery, u.CreateQuery, u.CheckQuery, u.EraseQuery, mysql)
	if err != nil {
		return q, err
	}
	return q, q.ParsePhone(u.PhoneQuery, mysql)
}

// ChangesPhones reports whether the query phone is configured.
func (u *SQLUsers) ChangesPhones() bool { return u.PhoneQuery != "" }

// ChangePhone implements [user.PhoneChanger].
func (u *SQLUsers) ChangePhone(ctx context.Context, id string, to user.Phone) error {
	return user.ChangePhone(ctx, u.userDirectory, id, to)
}

// directory implements [namedDirectory]. The find query is part of the name: with another
// table or condition, the same ids may belong to other people.
func (u *SQLUsers) directory(look lookup) (directoryName, error) {
	d, err := nameByURL("sql", u.URL, u.Realm, look)
	if err != nil || d.written {
		return d, err
	}
	d.detail += " " + strings.Join(strings.Fields(u.FindQuery), " ")
	sum := sha256.Sum256([]byte(d.detail))
	d.find = hex.EncodeToString(sum[:])
	return d, nil
}

// externalPool holds the databases of users' tables: externalDB by address.
var externalPool = caddy.NewUsagePool()

type externalDB struct{ *external.Tables }

// Destruct closes the connections.
func (f externalDB) Destruct() error { return f.Close() }

func acquireExternal(address string) (*external.Tables, error) {
	v, _, err := externalPool.LoadOrNew(address, func() (caddy.Destructor, error) {
		db, err := external.New(address)
		return externalDB{db}, err
	})
	if err != nil {
		return nil, err
	}
	return v.(externalDB).Tables, nil
}

// Interface guards
var (
	_ caddy.Provisioner     = (*SQLUsers)(nil)
	_ caddy.CleanerUpper    = (*SQLUsers)(nil)
	_ caddyfile.Unmarshaler = (*SQLUsers)(nil)
	_ user.Directory        = (*SQLUsers)(nil)
	_ user.PhoneChanger     = (*SQLUsers)(nil)
	_ UsersOpener           = (*SQLUsers)(nil)
	_ UsersHolder           = (*SQLUsers)(nil)
)
