package sqldir

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// scanner reads a query token by token, as the lexer of the database does. It relies on the
// settings of our connections: in PostgreSQL standard_conforming_strings is on, and MySQL's
// sql_mode has neither ANSI_QUOTES nor NO_BACKSLASH_ESCAPES.
type scanner struct {
	text       string
	mysql      bool
	at         int
	start, end int // of the current part
	parts      []string
	names      []string
	bare       strings.Builder
	last       string   // the last token, in lower case; "" if it is a literal or a parameter
	open       []string // brackets that are still open: "(", "[", or "array" for the [ of ARRAY[…]
}

var (
	nameForm   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*`)
	wordForm   = regexp.MustCompile(`^[A-Za-z_\x{80}-\x{10ffff}][A-Za-z0-9_$\x{80}-\x{10ffff}]*`)
	numberForm = regexp.MustCompile(`^[0-9][A-Za-z0-9_$.\x{80}-\x{10ffff}]*`)
	continued  = regexp.MustCompile(`^(\s|\v|--[^\n\r]*[\n\r])*'`)
	dollarForm = regexp.MustCompile(`^\$([A-Za-z_\x{80}-\x{10ffff}][A-Za-z0-9_\x{80}-\x{10ffff}]*)?\$`)
)

func (s *scanner) run() error {
	if !utf8.ValidString(s.text) || strings.ContainsRune(s.text, 0) {
		return errors.New("it is not text in UTF-8")
	}
	s.end = len(s.text)
	for s.at < len(s.text) {
		if err := s.token(); err != nil {
			return err
		}
	}
	return nil
}

// token reads one token.
func (s *scanner) token() error {
	rest := s.text[s.at:]
	switch c := rest[0]; {
	case c == ' ', c == '\t', c == '\n', c == '\r', c == '\f', c == '\v':
		s.bare.WriteByte(c)
		s.at++
	case c == '\'' || c == '"' || c == '`':
		return s.literal(c, s.mysql && c != '`')
	case s.lineComment(rest):
		s.bare.WriteByte(' ')
		s.at += lineEnd(rest, s.mysql)
	case strings.HasPrefix(rest, "/*"):
		return s.comment(rest)
	case c == '$' && !s.mysql:
		return s.dollar(rest)
	case strings.HasPrefix(rest, "::"), strings.HasPrefix(rest, ":="):
		s.take(2)
	case c == ':' && len(rest) > 1 && (nameForm.MatchString(rest[1:]) || rest[1] >= utf8.RuneSelf):
		return s.parameter(rest)
	case c == '?' && s.mysql:
		return errors.New("parameters have names here: write :phone, :id and so on instead of ?")
	case c == ';':
		if strings.TrimSpace(rest[1:]) != "" {
			return errors.New("it is more than one statement: write one, without a semicolon")
		}
		s.end, s.at = s.at, len(s.text)
	default:
		return s.code(rest)
	}
	return nil
}

// code reads a word, a number, a bracket or an operator.
func (s *scanner) code(rest string) error {
	if word := wordForm.FindString(rest); word != "" {
		s.take(len(word))
		if (s.last == "e") && !s.mysql && strings.HasPrefix(s.text[s.at:], "'") {
			// In E'…' a backslash escapes, even in a continuation of the literal on the next line.
			if err := s.literal('\'', true); err != nil {
				return err
			}
			if continued.MatchString(s.text[s.at:]) {
				return errors.New("write E'…' as one literal")
			}
		}
		return nil
	}
	if number := numberForm.FindString(rest); number != "" {
		s.take(len(number))
		if strings.HasPrefix(s.text[s.at:], "'") {
			return fmt.Errorf("write a space between %s and the quote", number)
		}
		return nil
	}
	switch rest[0] {
	case '(':
		s.open = append(s.open, "(")
	case '[':
		kind := "["
		if s.last == "array" || len(s.open) > 0 && s.open[len(s.open)-1] == "array" && (s.last == "[" || s.last == ",") {
			kind = "array"
		}
		s.open = append(s.open, kind)
	case ')', ']':
		if len(s.open) > 0 {
			s.open = s.open[:len(s.open)-1]
		}
	}
	s.take(1)
	return nil
}

// take moves n bytes of code into the current part.
func (s *scanner) take(n int) {
	s.last = strings.ToLower(s.text[s.at : s.at+n])
	s.bare.WriteString(s.text[s.at : s.at+n])
	s.at += n
}

// parameter reads :name.
func (s *scanner) parameter(rest string) error {
	name := nameForm.FindString(rest[1:])
	after := rest[1+len(name):]
	if name == "" || after != "" && (after[0] == '$' || after[0] >= utf8.RuneSelf) {
		return errors.New("after a colon comes the name of a parameter, in ASCII: use :" + strings.Join(parameters, ", :"))
	}
	if len(s.open) > 0 && s.open[len(s.open)-1] == "[" {
		return fmt.Errorf(":%s in a subscript may be a parameter or the end of a slice: write (:%s), or a space after the colon", name, name)
	}
	if !slices.Contains(parameters, name) {
		return fmt.Errorf("there is no parameter :%s: use :%s", name, strings.Join(parameters, ", :"))
	}
	part := s.text[s.start:s.at]
	if !s.mysql && part != "" && endsInWord(part) {
		part += " " // keep LIKE:phone from becoming the word LIKE$1
	}
	s.parts, s.names = append(s.parts, part), append(s.names, name)
	s.bare.WriteString(" ? ")
	s.last = ""
	s.at += 1 + len(name)
	s.start = s.at
	return nil
}

func endsInWord(part string) bool {
	c := part[len(part)-1]
	return c == '_' || c == '$' || c >= utf8.RuneSelf || c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z'
}

// lineComment reports whether a comment that ends with the line begins here. In MySQL a blank must
// follow the two dashes: 5--1 means 5 minus -1.
func (s *scanner) lineComment(rest string) bool {
	if !strings.HasPrefix(rest, "--") {
		return rest[0] == '#' && s.mysql
	}
	return !s.mysql || len(rest) == 2 || rest[2] <= ' ' || rest[2] == 0x7f
}

// lineEnd returns the length of a line comment. A carriage return ends it in PostgreSQL, but not in
// MySQL.
func lineEnd(rest string, mysql bool) int {
	ends := "\n\r"
	if mysql {
		ends = "\n"
	}
	if i := strings.IndexAny(rest, ends); i >= 0 {
		return i
	}
	return len(rest)
}

// comment reads /*…*/. In PostgreSQL such comments nest, in MySQL they do not.
func (s *scanner) comment(rest string) error {
	if s.mysql && (strings.HasPrefix(rest, "/*!") || strings.HasPrefix(rest, "/*M!")) {
		return errors.New("whether MySQL runs the code in /*! … */ depends on its version: write the code without the comment")
	}
	depth, i := 1, 2
	for depth > 0 {
		switch {
		case i >= len(rest):
			return errors.New("a comment is not closed")
		case strings.HasPrefix(rest[i:], "*/"):
			depth--
			i += 2
		case strings.HasPrefix(rest[i:], "/*") && !s.mysql:
			depth++
			i += 2
		default:
			i++
		}
	}
	if s.mysql && strings.Contains(rest[2:i-2], "/*") {
		return errors.New("MySQL ends a nested comment at its first */: write one comment, without /* in it")
	}
	s.bare.WriteByte(' ')
	s.at += i
	return nil
}

// literal reads quoted text, in which a quote is doubled.
func (s *scanner) literal(quote byte, escapes bool) error {
	if quote == '`' && !s.mysql {
		return errors.New("backticks are MySQL's: quote a name with \" in PostgreSQL")
	}
	for i := s.at + 1; i < len(s.text); i++ {
		switch c := s.text[i]; {
		case c == '\\' && escapes:
			i++
		case c == quote && strings.HasPrefix(s.text[i+1:], string(quote)):
			i++
		case c == quote:
			s.bare.WriteString(" 'x' ")
			s.at, s.last = i+1, ""
			return nil
		}
	}
	return fmt.Errorf("a quote %c is not closed", quote)
}

// dollar reads PostgreSQL's $$…$$ and $tag$…$tag$.
func (s *scanner) dollar(rest string) error {
	if len(rest) > 1 && rest[1] >= '0' && rest[1] <= '9' {
		return errors.New("parameters have names here: write :phone, :id and so on instead of $1")
	}
	tag := dollarForm.FindString(rest)
	if tag == "" {
		s.take(1)
		return nil
	}
	end := strings.Index(rest[len(tag):], tag)
	if end < 0 {
		return fmt.Errorf("the text that begins with %s is not closed", tag)
	}
	s.bare.WriteString(" 'x' ")
	s.at += 2*len(tag) + end
	s.last = ""
	return nil
}
