package sqldir

import (
	"encoding/json"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// layout assigns a meaning to each column of a query. The case of id, disabled and claims. does not
// matter, because databases fold the case of names. Names that are passed on to the client keep
// their case.
type layout struct {
	query        string
	columns      []string
	id, disabled int // index of the column; -1 if there is none
}

const claimColumn = "claims."

func layoutOf(query string, columns []string) (layout, error) {
	l := layout{query, columns, -1, -1}
	seen := make(map[string]bool)
	for i, c := range columns {
		name := strings.ToLower(c)
		if seen[name] {
			return l, misconfigured("%s has two columns %q: rename one of them with AS", query, c)
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
		return l, misconfigured("%s has no column id: name the column that holds it, such as SELECT member_no AS id", query)
	}
	return l, nil
}

// user makes a user from a row.
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
		// The system that wrote an unreadable value meant something by it. Treat the
		// user as disabled rather than let them in by mistake.
		yes, ok := truth(row[l.disabled])
		u.Disabled = yes || !ok
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
		if unfit, ok := row[i].(Unfit); ok {
			return u, misconfigured("the column %q of %s is %s, which has no unique form in JSON: cast it", c, l.query, unfit)
		}
		into[name] = plain(row[i])
	}
	return u, nil
}

// zero matches a number or a bit string that is zero, as databases write it.
var zero = regexp.MustCompile(`^[+-]?(0+(\.0*)?|\.0+)(e[+-]?[0-9]+)?$`)

// truth interprets a value of the column disabled. ok is false for a value that means neither yes
// nor no. A time means that the user is disabled since then.
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
	case float32:
		return truth(float64(v))
	case float64:
		return v != 0, v == math.Trunc(v)
	case json.Number:
		return !zero.MatchString(strings.ToLower(v.String())), true
	case time.Time:
		return true, true
	case Unfit:
		return !v.Zero, v.Zero
	case []byte:
		if len(v) == 1 && v[0] <= 1 { // MySQL's BIT(1)
			return v[0] == 1, true
		}
		return truth(string(v))
	case string:
		return spoken(strings.ToLower(strings.TrimSpace(v)))
	}
	return false, false
}

// spoken interprets texts that mean yes or no in databases without a boolean type.
func spoken(v string) (yes, ok bool) {
	switch v {
	case "1", "t", "true", "y", "yes", "on":
		return true, true
	case "", "f", "false", "n", "no", "off", noTime:
		return false, true
	}
	if zero.MatchString(v) || strings.HasPrefix(v, "0000-00-00") {
		return false, true
	}
	for _, form := range []string{time.DateTime, time.DateOnly} { // as MySQL sends them
		if len(v) >= len(form) {
			if _, err := time.Parse(form, v[:len(form)]); err == nil {
				return true, true
			}
		}
	}
	return false, false // including other numbers
}

// noTime is an interval of zero in ISO 8601, in lower case.
const noTime = "pt0s"

// plain converts a column's value for JSON.
func plain(v any) any {
	switch v := v.(type) {
	case []byte:
		return strings.ToValidUTF8(string(v), "�")
	case string:
		return strings.ToValidUTF8(v, "�")
	case time.Time:
		return v.UTC().Format(time.RFC3339Nano)
	case float32:
		return Fraction(float64(v), 32)
	case float64:
		return Fraction(v, 64)
	}
	return v
}

// Fraction converts a float with that many bits for JSON. The result is the shortest number that
// denotes the same float. NaN and the infinities become text, as in PostgreSQL's to_json.
func Fraction(f float64, bits int) any {
	switch {
	case math.IsNaN(f):
		return "NaN"
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	}
	form := byte('f')
	if abs := math.Abs(f); abs != 0 && (abs < 1e-6 || abs >= 1e21) { // the same bounds as in JavaScript
		form = 'e'
	}
	return json.Number(strconv.FormatFloat(f, form, -1, bits))
}
