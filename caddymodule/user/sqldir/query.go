package sqldir

import (
	"errors"
	"slices"
	"strings"
)

// Parameters are the names that a query may use, such as :phone.
var parameters = []string{"phone", "country", "national", "openid", "unionid", "appid", "id"}

// Query is a query with named parameters. The zero value means that there is none.
type Query struct {
	parts []string // the text around the parameters: one part more than there are names
	names []string // the parameters, in order
	bare  string   // the text without literals and comments, for inspection
}

// ParseQuery splits a query at its parameters. A colon in a literal, a comment, a cast or an
// assignment does not begin a parameter. A query in which this cannot be decided is refused. If
// mysql is set, MySQL's rules for literals and comments apply, otherwise PostgreSQL's. The error
// says what to write instead.
func ParseQuery(text string, mysql bool) (Query, error) {
	s := scanner{text: text, mysql: mysql}
	if err := s.run(); err != nil {
		return Query{}, err
	}
	q := Query{append(s.parts, s.text[s.start:s.end]), s.names, s.bare.String()}
	if strings.TrimSpace(q.bare) == "" {
		return Query{}, errors.New("the query is empty")
	}
	return q, nil
}

// SQL returns the query with the placeholders of a database. Each use of a parameter gets its own
// placeholder, because a placeholder can have only one type.
func (q Query) SQL(placeholder func(n int) string) string {
	var b strings.Builder
	for i, part := range q.parts {
		if i > 0 {
			b.WriteString(placeholder(i))
		}
		b.WriteString(part)
	}
	return b.String()
}

// Uses reports whether the query uses a parameter.
func (q Query) Uses(name string) bool { return slices.Contains(q.names, name) }

// IsZero reports whether there is no query.
func (q Query) IsZero() bool { return len(q.parts) == 0 }

// args returns the values of the query's parameters. An empty value becomes NULL.
func (q Query) args(values map[string]string) []any {
	args := make([]any, len(q.names))
	for i, name := range q.names {
		if v := values[name]; v != "" {
			args[i] = v
		}
	}
	return args
}
