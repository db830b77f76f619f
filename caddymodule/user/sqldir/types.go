package sqldir

import "fmt"

// Kind is what a column's type is good for.
type Kind uint8

const (
	// Odd types have no one form in JSON: bytes, arrays, ranges, geometry.
	Odd Kind = iota
	// Text is anything that is a string in JSON and nothing more.
	Text
	// Whole is a whole number.
	Whole
	// Decimal is a number with digits behind the point that must not be rounded: a
	// string in JSON, as the database writes it.
	Decimal
	// Other types have one form in JSON and name nobody: bool, fractions, times, JSON.
	Other
	// Sign types say only whether they are zero: money in the currency of the server,
	// MySQL's BIT.
	Sign
)

// Column is a column of a query, as the database describes it.
type Column struct {
	Name string
	Type string // as the database names it
	Kind Kind
	// Remedy is what to select instead of a column that has no use as it is.
	Remedy string
}

// Unfit is a value of a column of the kind Odd or Sign. Zero says that the value is
// of the kind Sign, and zero.
type Unfit struct {
	Type string
	Zero bool
}

// fit refuses a query whose columns cannot be read in one way only. What every user
// would meet at the login is found when the configuration is loaded.
func fit(query string, columns []Column) error {
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.Name
	}
	l, err := layoutOf(query, names)
	if err != nil {
		return err
	}
	for i, c := range columns {
		why := ""
		switch {
		case i == l.id && c.Kind != Text && c.Kind != Whole && c.Kind != Decimal:
			why = "an id is text or a whole number"
		case i == l.disabled && c.Kind == Odd:
			why = "disabled is true or false, a number, a time, or a text that says one of these"
			c.Remedy = "compare it, such as (status = 'banned') AS disabled"
		case i != l.id && i != l.disabled && (c.Kind == Odd || c.Kind == Sign):
			why = "it has no one form in JSON"
		default:
			continue
		}
		remedy := c.Remedy
		if remedy == "" {
			remedy = "cast it to text"
		}
		return misconfigured("%s: the column %q is of the type %s: %s; %s", query, c.Name, c.Type, why, remedy)
	}
	return nil
}

// String describes the value in an error, without what it holds.
func (u Unfit) String() string { return fmt.Sprintf("a value of the type %s", u.Type) }
