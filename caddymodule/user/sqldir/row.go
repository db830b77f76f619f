package sqldir

import (
	"strconv"
	"strings"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// layout is what the columns of a query mean. Names are taken in any case, as
// databases fold them, but those that are told on keep theirs.
type layout struct {
	query        string
	columns      []string
	id, disabled int // -1: not there
}

const claimColumn = "claims."

func layoutOf(query string, columns []string) (layout, error) {
	l := layout{query, columns, -1, -1}
	seen := make(map[string]bool)
	for i, c := range columns {
		name := strings.ToLower(c)
		if seen[name] {
			return l, misconfigured("%s has two columns %q: name one of them otherwise, with AS", query, c)
		}
		seen[name] = true
		switch name {
		case "id":
			l.id = i
		case "disabled":
			l.disabled = i
		}
	}
	if l.id < 0 {
		return l, misconfigured("%s has no column id: name the one that it is, such as SELECT member_no AS id", query)
	}
	return l, nil
}

// user makes a user of a row.
func (l layout) user(row []any) (u user.User, err error) {
	switch v := row[l.id].(type) {
	case int64:
		u.ID = strconv.FormatInt(v, 10)
	case uint64:
		u.ID = strconv.FormatUint(v, 10)
	case string:
		u.ID = v
	case []byte:
		u.ID = string(v)
	default:
		return u, misconfigured("the column id of %s is neither text nor a whole number", l.query)
	}
	if l.disabled >= 0 {
		var ok bool
		if u.Disabled, ok = truth(row[l.disabled]); !ok {
			return u, misconfigured("the column disabled of %s is neither true nor false, nor a time: compare it, such as (status = 'banned') AS disabled", l.query)
		}
	}
	u.Info = make(map[string]any)
	for i, c := range l.columns {
		if i == l.id || i == l.disabled {
			continue
		}
		into, name := u.Info, c
		if len(c) > len(claimColumn) && strings.EqualFold(c[:len(claimColumn)], claimColumn) {
			if u.Claims == nil {
				u.Claims = make(map[string]any)
			}
			into, name = u.Claims, c[len(claimColumn):]
		}
		into[name] = plain(row[i])
	}
	return u, nil
}

// truth reads a column as databases without a type for it write one. A time says
// since when.
func truth(v any) (yes, ok bool) {
	switch v := v.(type) {
	case nil:
		return false, true
	case bool:
		return v, true
	case int64:
		return v != 0, true
	case uint64:
		return v != 0, true
	case time.Time:
		return true, true
	case []byte:
		if len(v) == 1 && v[0] <= 1 { // MySQL's BIT(1)
			return v[0] == 1, true
		}
		return truth(string(v))
	case string:
		switch strings.ToLower(v) {
		case "1", "t", "true", "y", "yes", "on":
			return true, true
		case "", "0", "f", "false", "n", "no", "off":
			return false, true
		}
		if strings.HasPrefix(v, "0000-00-00") {
			return false, true
		}
		for _, form := range []string{time.DateTime, time.DateOnly} { // MySQL's, as it sends them
			if len(v) >= len(form) {
				if _, err := time.Parse(form, v[:len(form)]); err == nil {
					return true, true
				}
			}
		}
	}
	return false, false
}

// plain is a column's value as JSON has it.
func plain(v any) any {
	switch v := v.(type) {
	case []byte:
		return strings.ToValidUTF8(string(v), "�")
	case string:
		return strings.ToValidUTF8(v, "�")
	case time.Time:
		return v.Format(time.RFC3339)
	}
	return v
}
