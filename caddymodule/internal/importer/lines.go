package importer

import (
	"bufio"
	"cmp"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// refusal is a refused line.
type refusal struct {
	line   int
	phone  user.Phone
	reason error
}

// report calls Refused for each refusal of a batch, in the order of the lines.
func (i Import) report(bad []refusal) {
	slices.SortStableFunc(bad, func(a, b refusal) int { return cmp.Compare(a.line, b.line) })
	if i.Refused == nil {
		return
	}
	for _, r := range bad {
		i.Refused(r.line, r.phone, r.reason)
	}
}

// lineBatch holds the lines that are imported in one transaction.
type lineBatch struct {
	rows    []Row
	numbers []int // the line number of each row
	refused []refusal
	last    bool // the file has ended
}

// readBatch reads lines until it has batchSize rows, or the file ends.
func readBatch(lines *lineReader, parse *parser) (b lineBatch, err error) {
	for len(b.rows) < batchSize {
		text, err := lines.next()
		switch {
		case err == io.EOF:
			b.last = true
			return b, nil
		case errors.Is(err, errLongLine):
			b.refused = append(b.refused, refusal{line: lines.number, reason: err})
			continue
		case err != nil:
			return b, fmt.Errorf("line %d: %w", lines.number, err)
		}
		row, empty, err := parse.line(text, lines.number == 1)
		switch {
		case errors.Is(err, errHeader):
			return b, err
		case empty:
		case err != nil:
			b.refused = append(b.refused, refusal{lines.number, row.Phone, err})
		default:
			b.rows, b.numbers = append(b.rows, row), append(b.numbers, lines.number)
		}
	}
	return b, nil
}

var errLongLine = fmt.Errorf("the line is longer than %d bytes", maxLine)

// lineReader reads each line separately. A CSV reader over the whole file would let one
// unclosed quote swallow the rest of the file.
type lineReader struct {
	in     *bufio.Reader
	number int
	bytes  int64
}

func (l *lineReader) next() (string, error) {
	text, err := l.in.ReadSlice('\n')
	l.bytes += int64(len(text))
	if err == io.EOF && len(text) == 0 {
		return "", io.EOF
	}
	l.number++
	line := string(text)
	for err == bufio.ErrBufferFull {
		text, err = l.in.ReadSlice('\n')
		l.bytes += int64(len(text))
		if err == nil || err == io.EOF {
			return "", errLongLine
		}
	}
	if err != nil && err != io.EOF {
		return "", err
	}
	return strings.TrimRight(line, "\r\n"), nil
}

// columns lists the columns of a file without a header, in their order. A header may name them in
// any order and omit optional ones.
var columns = []string{"appid", "openid", "unionid", "phone", "user id"}

const form = "appid, openid, unionid, phone, user id"

// errHeader is the error for a first line with unknown or missing column names. The lines after it
// cannot be interpreted.
var errHeader = errors.New("the first line must name these columns, in any order: " + form)

type parser struct {
	apps  []string
	order []int // the index of each column in a line; -1: the file does not have it
	width int
}

func newParser(apps []string) *parser {
	p := &parser{apps: apps, order: make([]int, len(columns)), width: len(columns)}
	for i := range p.order {
		p.order[i] = i
	}
	return p
}

// line parses a line. It reports empty if the line contains nothing to import. For a refused line
// it returns the phone number, if that could be parsed.
func (p *parser) line(text string, first bool) (row Row, empty bool, err error) {
	if first {
		text = strings.TrimPrefix(text, "\ufeff") // Excel writes a byte-order mark
	}
	if strings.TrimSpace(text) == "" {
		return row, true, nil
	}
	fields, err := split(text)
	if err != nil {
		return row, false, err
	}
	if first && slices.ContainsFunc(fields, func(f string) bool { return strings.EqualFold(f, "openid") || strings.EqualFold(f, "appid") }) {
		return row, true, p.header(fields)
	}
	if len(fields) != p.width {
		return row, false, fmt.Errorf("%d columns instead of %d: %s", len(fields), p.width, form)
	}
	value := func(column int) string {
		if at := p.order[column]; at >= 0 {
			return fields[at]
		}
		return ""
	}
	row = Row{AppID: value(0), OpenID: value(1), UnionID: value(2), UserID: value(4)}
	if number := value(3); number != "" {
		country := "86"
		if strings.HasPrefix(number, "+") {
			country = ""
		}
		if row.Phone, err = user.ParsePhone(country, number); err != nil {
			return row, false, fmt.Errorf("phone: %w; write +8613800138000", err)
		}
	}
	switch {
	case row.AppID == "":
		err = errors.New("the appid is missing")
	case !slices.Contains(p.apps, row.AppID):
		err = errors.New("the appid is none of those that the configuration serves")
	case !user.ValidID(row.OpenID):
		err = errors.New("the openid is missing or invalid: an openid has 1 to 128 visible ASCII characters")
	case row.UnionID != "" && !user.ValidID(row.UnionID):
		err = errors.New("the unionid is invalid: a unionid has 1 to 128 visible ASCII characters")
	case row.UserID != "" && !user.ValidID(row.UserID):
		err = errors.New("the user id is invalid: a user id has 1 to 128 visible ASCII characters")
	case row.UserID == "" && row.Phone.IsZero():
		err = errors.New("neither a phone number nor a user id")
	}
	return row, false, err
}

// header parses the first line if it names the columns.
func (p *parser) header(fields []string) error {
	p.width = len(fields)
	for i, name := range columns {
		p.order[i] = slices.IndexFunc(fields, func(f string) bool {
			return strings.EqualFold(strings.NewReplacer("_", " ", "-", " ").Replace(f), name) ||
				strings.EqualFold(f, strings.ReplaceAll(name, " ", ""))
		})
	}
	known := 0
	for _, at := range p.order {
		if at >= 0 {
			known++
		}
	}
	if p.order[0] < 0 || p.order[1] < 0 || known != len(fields) {
		return errHeader
	}
	return nil
}

// split splits a line into its fields and trims the blanks around them.
func split(text string) (fields []string, err error) {
	if strings.Contains(text, `"`) {
		in := csv.NewReader(strings.NewReader(text))
		in.TrimLeadingSpace = true
		if fields, err = in.Read(); err != nil {
			return nil, errors.New("the quotes do not match")
		}
	} else {
		fields = strings.Split(text, ",")
	}
	for i := range fields {
		fields[i] = strings.TrimSpace(fields[i])
	}
	return fields, nil
}
