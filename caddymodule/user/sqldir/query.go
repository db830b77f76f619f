package sqldir

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Parameters are the names that a query may use, as :phone.
var parameters = []string{"phone", "country", "national", "openid", "unionid", "appid", "id"}

// Query is a query with named parameters. The zero value is none.
type Query struct {
	parts []string // the text around the parameters: one more than there are
	names []string // the parameters, in order
	bare  string   // the text without literals and comments, for looking at
}

// ParseQuery takes a query apart. A colon in a literal, a comment, a cast or an
// assignment begins no parameter. mysql says that a backslash escapes what
// follows it in a literal, and that "#" begins a comment. The error says what to
// write instead.
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

// SQL is the query with the placeholders of a database. Each use of a parameter
// has one of its own: databases give each one type.
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

// args are the values of the query's parameters; what is empty is NULL.
func (q Query) args(values map[string]string) []any {
	args := make([]any, len(q.names))
	for i, name := range q.names {
		if v := values[name]; v != "" {
			args[i] = v
		}
	}
	return args
}

// scanner goes through a query once.
type scanner struct {
	text       string
	mysql      bool
	at         int
	start, end int // of the part under way
	parts      []string
	names      []string
	bare       strings.Builder
}

var (
	nameForm   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*`)
	dollarForm = regexp.MustCompile(`^\$([A-Za-z_][A-Za-z0-9_]*)?\$`)
)

func (s *scanner) run() error {
	s.end = len(s.text)
	for s.at < len(s.text) {
		rest := s.text[s.at:]
		switch c := rest[0]; {
		case c == '\'' || c == '"' || c == '`':
			if err := s.literal(c); err != nil {
				return err
			}
		case strings.HasPrefix(rest, "--"), c == '#' && s.mysql:
			s.skip(rest, "\n", false)
		case strings.HasPrefix(rest, "/*"):
			if !s.skip(rest[2:], "*/", true) {
				return errors.New("a comment does not end")
			}
		case c == '$' && !s.mysql:
			if err := s.dollar(rest); err != nil {
				return err
			}
		case strings.HasPrefix(rest, "::"), strings.HasPrefix(rest, ":="):
			s.take(2)
		case c == ':' && nameForm.MatchString(rest[1:]):
			name := nameForm.FindString(rest[1:])
			if !slices.Contains(parameters, name) {
				return fmt.Errorf("there is no parameter :%s: use :%s", name, strings.Join(parameters, ", :"))
			}
			s.parts, s.names = append(s.parts, s.text[s.start:s.at]), append(s.names, name)
			s.bare.WriteString(" ? ")
			s.at += 1 + len(name)
			s.start = s.at
		case c == '?' && s.mysql:
			return errors.New("parameters have names here: write :phone, :id and so on instead of ?")
		case c == ';':
			if strings.TrimSpace(rest[1:]) != "" {
				return errors.New("it is more than one statement: write one, without a semicolon")
			}
			s.end, s.at = s.at, len(s.text)
		default:
			s.take(1)
		}
	}
	return nil
}

// take goes on over what is code.
func (s *scanner) take(n int) {
	s.bare.WriteString(s.text[s.at : s.at+n])
	s.at += n
}

// skip goes on behind end, if it comes; else, unless it must come, to the end of
// the query.
func (s *scanner) skip(rest, end string, must bool) bool {
	i := strings.Index(rest, end)
	if i < 0 && must {
		return false
	}
	s.bare.WriteByte(' ')
	if i < 0 {
		s.at = len(s.text)
		return true
	}
	s.at = len(s.text) - len(rest) + i + len(end)
	return true
}

// literal goes over text in quotes, in which a quote is written twice.
func (s *scanner) literal(quote byte) error {
	escapes := quote != '`' && (s.mysql || quote == '\'' && s.at > 0 && strings.ContainsRune("eE", rune(s.text[s.at-1])))
	for i := s.at + 1; i < len(s.text); i++ {
		switch c := s.text[i]; {
		case c == '\\' && escapes:
			i++
		case c == quote:
			s.bare.WriteString(" 'x' ")
			s.at = i + 1 // of '' the second half begins the next literal
			return nil
		}
	}
	return fmt.Errorf("a quote %c is not closed", quote)
}

// dollar goes over PostgreSQL's $$…$$ and $tag$…$tag$.
func (s *scanner) dollar(rest string) error {
	if len(rest) > 1 && rest[1] >= '0' && rest[1] <= '9' {
		return errors.New("parameters have names here: write :phone, :id and so on instead of $1")
	}
	tag := dollarForm.FindString(rest)
	if tag == "" {
		s.take(1)
		return nil
	}
	if !s.skip(rest[len(tag):], tag, true) {
		return fmt.Errorf("what begins with %s does not end", tag)
	}
	return nil
}
