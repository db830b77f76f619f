package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/clock"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/importer"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/sqldb"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

var (
	_ importer.Store = (*Store)(nil)
	_ importer.Store = boundExternal{}
)

// importTries bounds how often a batch is planned again because of a concurrent login. Each try
// locks all users that the earlier tries have found, so only a user who appears meanwhile can
// disturb it.
const importTries = 10

// errCrossed reports that a login has changed the data on which the plan of a batch is based.
var errCrossed = errors.New("a concurrent login has changed the same users")

// Import writes the users and openids that are not in the store yet. It does not change what is
// there, so importing the same rows again writes nothing. An imported openid may log in silently
// from then on, for as long as after a phone login, unless it may be a former owner's.
//
// Import is for the directory in the store. Batches of a few hundred rows keep concurrent logins
// from waiting.
func (s *Store) Import(ctx context.Context, rows []importer.Row, rule user.NewOpenID) ([]importer.Outcome, error) {
	return s.importRows(ctx, rows, rule, false)
}

// ImportExternal imports rows for an external directory. It binds openids to the user ids in the
// rows, and neither looks up nor creates users. It stores each row's phone number, for directories
// that do not return numbers.
func (s *Store) ImportExternal() importer.Store { return boundExternal{s} }

type boundExternal struct{ *Store }

// Import implements [importer.Store].
func (s boundExternal) Import(ctx context.Context, rows []importer.Row, rule user.NewOpenID) ([]importer.Outcome, error) {
	return s.importRows(ctx, rows, rule, true)
}

func (s *Store) importRows(ctx context.Context, rows []importer.Row, rule user.NewOpenID, external bool) (outcomes []importer.Outcome, err error) {
	lock := make(map[string]bool)
	for range importTries {
		var plan *importPlan
		// The first pass takes no lock, because often a file is imported again, and there is
		// nothing to write.
		if err := s.sql.Read(ctx, "reading what is known of an import", func(t *sqldb.Tx) (err error) {
			plan, err = s.planImport(t, rows, rule, external)
			return err
		}); err != nil {
			return nil, err
		}
		if !plan.writes() {
			return plan.outcomes, nil
		}
		maps.Copy(lock, plan.joined)
		begun := time.Now()
		err := s.sql.Rewrite(ctx, "importing", func(t *sqldb.Tx) error {
			if err := lockUsers(t, lock); err != nil {
				return err
			}
			if plan, err = s.planImport(t, rows, rule, external); err != nil {
				return err
			}
			if !s.db.sql.Dialect.OneWriter && !within(plan.joined, lock) {
				return errCrossed
			}
			return s.writeImport(t, plan)
		})
		switch {
		case err == nil:
			if s.db.sql.Dialect.OneWriter {
				// Other processes poll for the write lock. This pause gives them as much time as we
				// have held it.
				clock.Sleep(ctx, time.Since(begun))
			}
			return plan.outcomes, nil
		case errors.Is(err, errCrossed), s.db.sql.Dialect.Duplicate(err):
		default:
			return nil, err
		}
	}
	return nil, fmt.Errorf("importing into the store: %s: %w: %w", s.db.String(), ErrUnavailable, errCrossed)
}

// within reports whether all ids of a are in b.
func within(a, b map[string]bool) bool {
	for id := range a {
		if !b[id] {
			return false
		}
	}
	return true
}

// importPlan holds what the store contains about the rows of a batch, and what to write.
type importPlan struct {
	byPhone  map[string]string // E.164 → user id
	users    map[string]user.Phone
	erased   map[string]bool
	bindings map[openidKey]user.Binding
	openids  map[userApp]bool // users with an openid in an app
	unionids map[string]string
	// suspended holds the WeChat accounts that are suspended at their user. Openids that a file
	// adds to such an account are suspended, too.
	suspended map[userUnion]bool
	// loggedIn holds the active accounts that have logged in with their user's number here, by
	// user. left holds the users that have lost an account, or have one that is not active.
	loggedIn map[string][]user.Binding
	left     map[string]bool

	outcomes []importer.Outcome
	newUsers []user.User
	newBinds []user.Binding
	unioned  []user.Binding  // known bindings that get a unionid
	created  map[string]bool // the ids of newUsers
	joined   map[string]bool // existing users that get an openid
}

type openidKey struct{ appid, openid string }

type userApp struct{ userID, appid string }

type userUnion struct{ userID, unionid string }

func (p *importPlan) writes() bool {
	return len(p.newUsers)+len(p.newBinds)+len(p.unioned) > 0
}

func (s *Store) planImport(t *sqldb.Tx, rows []importer.Row, rule user.NewOpenID, external bool) (*importPlan, error) {
	p := &importPlan{
		byPhone: make(map[string]string), users: make(map[string]user.Phone), erased: make(map[string]bool),
		bindings: make(map[openidKey]user.Binding), openids: make(map[userApp]bool), unionids: make(map[string]string),
		created: make(map[string]bool), joined: make(map[string]bool), suspended: make(map[userUnion]bool),
		loggedIn: make(map[string][]user.Binding), left: make(map[string]bool),
	}
	if err := t.PreferIndex(); err != nil {
		return nil, err
	}
	if err := s.lookUp(t, p, rows); err != nil {
		return nil, err
	}
	now := s.db.opts.Now().UTC().Truncate(time.Millisecond)
	for _, r := range rows {
		id, isNew, err := p.ownerOf(r, external)
		if err == nil {
			err = p.contradicted(r, id, rule)
		}
		if err != nil {
			p.outcomes = append(p.outcomes, importer.Outcome{Refused: err})
			continue
		}
		if isNew {
			id = p.addUser(r, id, now)
		}
		bound := p.addBinding(r, id, rule, external, now)
		suspended := bound && p.bindings[openidKey{r.AppID, r.OpenID}].State == user.Suspended
		p.outcomes = append(p.outcomes, importer.Outcome{NewUser: isNew, Bound: bound, Suspended: suspended})
	}
	return p, nil
}

// contradicted returns an error if the store, or an earlier row of the batch, contradicts a row. id
// is empty for a new user without an id.
func (p *importPlan) contradicted(r importer.Row, id string, rule user.NewOpenID) error {
	before, bound := p.bindings[openidKey{r.AppID, r.OpenID}]
	switch {
	case bound && before.UserID != id:
		return importer.ErrOpenIDTaken
	case r.UnionID != "" && p.unionids[r.UnionID] != "" && p.unionids[r.UnionID] != id:
		return importer.ErrUnionIDTaken
	case !bound && rule != user.Keep && p.openids[userApp{id, r.AppID}]:
		return importer.ErrOtherOpenID
	}
	return nil
}

// addUser adds a row's new user to the plan, and returns the user's id.
func (p *importPlan) addUser(r importer.Row, id string, now time.Time) string {
	if id == "" {
		id = newID(now)
	}
	p.newUsers = append(p.newUsers, user.User{ID: id, Phone: r.Phone, CreatedAt: now})
	p.users[id], p.byPhone[r.Phone.E164()] = r.Phone, id
	p.created[id] = true
	return id
}

// addBinding adds a row's binding to the plan. It returns false if the openid is bound already.
func (p *importPlan) addBinding(r importer.Row, id string, rule user.NewOpenID, external bool, now time.Time) (added bool) {
	before, bound := p.bindings[openidKey{r.AppID, r.OpenID}]
	b := user.Binding{AppID: r.AppID, OpenID: r.OpenID, UnionID: r.UnionID, UserID: id, PhoneAt: now}
	if external {
		b.Phone = r.Phone
	}
	if r.UnionID != "" && p.suspended[userUnion{id, r.UnionID}] || rule != user.Keep && p.mayHaveLeft(b) {
		b.State = user.Suspended
	}
	switch {
	case !bound:
		p.newBinds = append(p.newBinds, b)
		if !p.created[id] {
			p.joined[id] = true
		}
	case before.UnionID == "" && r.UnionID != "":
		p.unioned = append(p.unioned, b)
	default:
		b.UnionID = before.UnionID
	}
	p.bindings[openidKey{b.AppID, b.OpenID}] = b
	p.openids[userApp{id, b.AppID}] = true
	if b.UnionID != "" {
		p.unionids[b.UnionID] = id
	}
	return !bound
}

// mayHaveLeft reports whether a new binding may be that of a former owner of the user's number. It
// may be if another WeChat account has logged in with the number here, which the file may not know
// of, or if somebody has left the user.
func (p *importPlan) mayHaveLeft(b user.Binding) bool {
	here := p.loggedIn[b.UserID]
	return (len(here) > 0 || p.left[b.UserID]) && !slices.ContainsFunc(here, b.SameAccount)
}

// ownerOf returns the user id of a row. A new user has the id given in the row, or none yet.
func (p *importPlan) ownerOf(r importer.Row, external bool) (id string, isNew bool, err error) {
	if external {
		switch {
		case r.UserID == "":
			return "", false, importer.ErrNoUserID
		case p.erased[r.UserID]:
			return "", false, importer.ErrErased
		}
		return r.UserID, false, nil
	}
	owner := ""
	if !r.Phone.IsZero() {
		owner = p.byPhone[r.Phone.E164()]
	}
	if r.UserID == "" {
		return owner, owner == "", nil
	}
	number, known := p.users[r.UserID]
	switch {
	case owner != "" && owner != r.UserID:
		return "", false, importer.ErrPhoneTaken
	case known && !r.Phone.IsZero() && number != r.Phone:
		return "", false, importer.ErrOtherPhone
	case known:
		return r.UserID, false, nil
	case p.erased[r.UserID]:
		return "", false, importer.ErrErased
	case r.Phone.IsZero():
		return "", false, importer.ErrNoPhone
	}
	return r.UserID, true, nil
}

// lookUp reads what the store contains about the rows.
func (s *Store) lookUp(t *sqldb.Tx, p *importPlan, rows []importer.Row) error {
	var hashes, ids, unionids []any
	numbers := make(map[string]string) // hash → E.164
	openids := make(map[string][]any)  // by app
	for _, r := range rows {
		if !r.Phone.IsZero() {
			for _, h := range s.keys.Load().phoneHashes(r.Phone.E164()) {
				hashes = append(hashes, h)
				numbers[string(h)] = r.Phone.E164()
			}
		}
		if r.UserID != "" {
			ids = append(ids, r.UserID)
		}
		if r.UnionID != "" {
			unionids = append(unionids, r.UnionID)
		}
		openids[r.AppID] = append(openids[r.AppID], r.OpenID)
	}
	err := eachOf(t, func(row sqldb.Row) error {
		var hash []byte
		var id string
		err := row.Scan(&hash, &id)
		p.byPhone[numbers[string(hash)]] = id
		ids = append(ids, id)
		return err
	}, `SELECT phone_hash, user_id FROM {user_phones} WHERE phone_hash = ?`, nil, hashes)
	if err != nil {
		return err
	}
	if err := eachOf(t, func(row sqldb.Row) error {
		var id string
		var sealed []byte
		if err := row.Scan(&id, &sealed); err != nil {
			return err
		}
		phone, err := s.openPhone(phonePlace(id), sealed)
		p.users[id] = phone
		return err
	}, `SELECT id, phone FROM {users} WHERE id = ?`, nil, ids); err != nil {
		return err
	}
	if err := eachOf(t, addTo(p.erased), `SELECT user_id FROM {barred_users} WHERE erased_at > 0 AND user_id = ?`, nil, ids); err != nil {
		return err
	}
	return p.lookUpBindings(t, openids, ids, unionids)
}

func (p *importPlan) lookUpBindings(t *sqldb.Tx, openids map[string][]any, ids, unionids []any) error {
	add := func(row sqldb.Row) error {
		var b user.Binding
		var authAt int64
		err := row.Scan(&b.AppID, &b.OpenID, &b.UnionID, &b.UserID, &b.State, &authAt)
		switch {
		case b.State != user.Active:
			p.left[b.UserID] = true
		case authAt > 0:
			p.loggedIn[b.UserID] = append(p.loggedIn[b.UserID], b)
		}
		p.bindings[openidKey{b.AppID, b.OpenID}] = b
		p.openids[userApp{b.UserID, b.AppID}] = true
		if b.UnionID != "" && (b.State == user.Active || p.unionids[b.UnionID] == "") {
			p.unionids[b.UnionID] = b.UserID
		}
		if b.State == user.Suspended && b.UnionID != "" {
			p.suspended[userUnion{b.UserID, b.UnionID}] = true
		}
		return err
	}
	const which = `SELECT appid, openid, unionid, user_id, state, auth_at FROM {bindings} WHERE `
	for appid, list := range openids {
		if err := eachOf(t, add, which+`appid = ? AND openid = ?`, []any{appid}, list); err != nil {
			return err
		}
	}
	if err := eachOf(t, add, which+`user_id = ?`, nil, ids); err != nil {
		return err
	}
	if err := eachOf(t, addTo(p.left), `SELECT user_id FROM {former_openids} WHERE user_id = ?`, nil, ids); err != nil {
		return err
	}
	return eachOf(t, add, which+`unionid = ?`, nil, unionids)
}

// addTo returns a function that adds the id of each row to a set.
func addTo(set map[string]bool) func(sqldb.Row) error {
	return func(row sqldb.Row) error {
		var id string
		err := row.Scan(&id)
		set[id] = true
		return err
	}
}

func (s *Store) writeImport(t *sqldb.Tx, p *importPlan) error {
	keys := s.keys.Load()
	var users, numbers, bindings [][]any
	for _, u := range p.newUsers {
		users = append(users, []any{u.ID, s.sealPhone(phonePlace(u.ID), u.Phone), flag(u.Disabled), s.db.millis(u.CreatedAt)})
		for i, hash := range keys.phoneHashes(u.Phone.E164()) {
			numbers = append(numbers, []any{hash, keys.keys[i].id[:], u.ID})
		}
	}
	for _, b := range p.newBinds {
		bindings = append(bindings, []any{b.AppID, b.OpenID, b.UnionID, b.UserID, s.db.millis(b.PhoneAt), s.bindingPhone(b), s.db.millis(b.PhoneAt)})
	}
	if err := errors.Join(
		insertAll(t, `{users} (id, phone, disabled, created_at)`, users),
		insertAll(t, `{user_phones} (phone_hash, key_id, user_id)`, numbers),
		insertAll(t, `{bindings} (appid, openid, unionid, user_id, phone_at, phone, bound_at)`, bindings),
	); err != nil {
		return err
	}
	for _, b := range p.newBinds {
		if b.State == user.Active {
			continue
		}
		if _, err := t.Exec(`UPDATE {bindings} SET state = ?, state_at = {now} WHERE appid = ? AND openid = ?`, int64(b.State), b.AppID, b.OpenID); err != nil {
			return err
		}
	}
	for _, b := range p.unioned {
		if _, err := t.Exec(`UPDATE {bindings} SET unionid = ? WHERE appid = ? AND openid = ? AND user_id = ? AND unionid = ''`,
			b.UnionID, b.AppID, b.OpenID, b.UserID); err != nil {
			return err
		}
	}
	return nil
}

// eachOf runs the query once for each key. The key is its last parameter, after those in before.
// One statement holds 8 or 64 queries, so that there are few different statements. "key IN (…)"
// would be shorter, but PostgreSQL scans the whole table for it as long as the statistics say that
// the table is small.
func eachOf(t *sqldb.Tx, scan func(sqldb.Row) error, query string, before, keys []any) error {
	for len(keys) > 0 {
		size := 8
		if len(keys) > size {
			size = 64
		}
		n := min(size, len(keys))
		var args []any
		for i := range size {
			args = append(append(args, before...), keys[min(i, n-1)]) // repeating the last key finds nothing new
		}
		if err := t.Each(scan, query+strings.Repeat(" UNION ALL "+query, size-1), args...); err != nil {
			return err
		}
		keys = keys[n:]
	}
	return nil
}

// insertAll writes rows with statements of 64, 8 or one row, so that there are few different
// statements.
func insertAll(t *sqldb.Tx, into string, rows [][]any) error {
	for len(rows) > 0 {
		n := 64
		for n > len(rows) {
			n /= 8
		}
		one := "(" + strings.TrimSuffix(strings.Repeat("?, ", len(rows[0])), ", ") + ")"
		query := `INSERT INTO ` + into + ` VALUES ` + strings.TrimSuffix(strings.Repeat(one+", ", n), ", ")
		if _, err := t.Exec(query, slices.Concat(rows[:n]...)...); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}
