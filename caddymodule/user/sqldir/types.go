package sqldir

import "fmt"

// Kind groups the types of columns by what they can be used for.
type Kind uint8

const (
	// Odd types have no unique form in JSON: bytes, arrays, ranges, geometry.
	Odd Kind = iota
	// Text types are a string in JSON and nothing else.
	Text
	// Whole types are whole numbers.
	Whole
	// Decimal types are numbers with fractional digits that must not be rounded. In
	// JSON they are a string, as the database writes it.
	Decimal
	// Other types have a unique form in JSON, but cannot be an id: booleans, floats, times, JSON.
	Other
	// Sign types can only be tested for zero: money in the currency of the server,
	// MySQL's BIT.
	Sign
)

// Column is a column of a query, as the database describes it.
type Column struct {
	Name string
	Type string // the database's name for it
	Kind Kind
	// Remedy says what to select instead, if the column cannot be used as it is.
	Remedy string
}

// Unfit is a value of a column of the kind Odd or Sign. Zero is true if the kind is
// Sign and the value is zero.
type Unfit struct {
	Type string
	Zero bool
}

// fit returns an error for a query with a column that has no unique form. So a wrong query is found
// when the configuration is loaded, and not at the first login.
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
			why = "an id must be text or a whole number"
		case i == l.disabled && c.Kind == Odd:
			why = "disabled must be a boolean, a number, a time, or a text that means one of these"
			c.Remedy = "compare it, such as (status = 'banned') AS disabled"
		case i != l.id && i != l.disabled && (c.Kind == Odd || c.Kind == Sign):
			why = "it has no unique form in JSON"
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

// String describes the value in an error without revealing it.
func (u Unfit) String() string { return fmt.Sprintf("a value of the type %s", u.Type) }
