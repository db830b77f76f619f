package user

import (
	"fmt"
	"strings"
	"unicode"
)

// Phone is a phone number in its one normal form: digits only, in two parts,
// such as "86" and "13800138000". The country part is always a complete ITU
// calling code; no such code begins with another one, so two numbers are the
// same exactly if their E.164 forms are.
//
// Printing a Phone prints it masked.
type Phone struct{ Country, National string }

// E.164 allows 15 digits, calling code included. The shortest numbers that
// somebody can own, on small islands, have four digits behind the code's first.
const (
	minDigits = 4
	maxDigits = 15
)

// ParsePhone makes a Phone of WeChat's countryCode and purePhoneNumber. Both
// are taken as people write them: full-width digits, spaces, dashes, brackets;
// "+" or "00" before the calling code; an area code behind it ("1264" is "1"
// and the first digits of the number); the calling code once more before the
// number; trunk zeros ("0912…" in Taiwan), where no number of that country
// begins with a zero. All spellings of one number become one Phone.
//
// An empty country is accepted if national begins with "+", so that
// ParsePhone("", p.E164()) is p. Whatever is not a phone number is [ErrPhone];
// the error does not hold the number.
func ParsePhone(country, national string) (Phone, error) {
	if len(country) > 64 || len(national) > 128 {
		return Phone{}, fmt.Errorf("%w: too long", ErrPhone)
	}
	code, _, ok := digits(country)
	if !ok {
		return Phone{}, fmt.Errorf("%w: the country code holds something else than digits", ErrPhone)
	}
	number, international, ok := digits(national)
	if !ok {
		return Phone{}, fmt.Errorf("%w: the number holds something else than digits", ErrPhone)
	}
	code = strings.TrimLeft(code, "0") // "0086", "086"
	if code == "" && international {
		code, number, ok = splitCode(number)
		if !ok {
			return Phone{}, fmt.Errorf("%w: unknown country code", ErrPhone)
		}
		return newPhone(code, number)
	}
	calling, area, ok := splitCode(code)
	if !ok {
		return Phone{}, fmt.Errorf("%w: unknown country code", ErrPhone)
	}
	plan := plans[calling]
	if international {
		number, ok = strings.CutPrefix(number, calling)
		if !ok {
			return Phone{}, fmt.Errorf("%w: the number is of another country than the country code", ErrPhone)
		}
	}
	number = plan.bare(number, calling)
	if area != "" {
		// "1264" is Anguilla, whose numbers are +1 264 497 1234. Only where all
		// numbers of a country have one length can it be told whether the area
		// is in the number already.
		if plan.long != len(number) || plan.short != plan.long || !strings.HasPrefix(number, area) {
			number = area + number
		}
		if plan.short != plan.long || len(number) != plan.long {
			return Phone{}, fmt.Errorf("%w: unknown country code", ErrPhone)
		}
	}
	return newPhone(calling, number)
}

func newPhone(country, national string) (Phone, error) {
	national = plans[country].bare(national, country)
	n := len(country) + len(national)
	if national == "" || n < minDigits || n > maxDigits {
		return Phone{}, fmt.Errorf("%w: %d digits", ErrPhone, n)
	}
	return Phone{Country: country, National: national}, nil
}

// E164 is the number as ITU-T E.164 writes it, "+8613800138000"; empty for the
// zero Phone.
func (p Phone) E164() string {
	if p.IsZero() {
		return ""
	}
	return "+" + p.Country + p.National
}

// IsZero reports whether there is no number.
func (p Phone) IsZero() bool { return p == Phone{} }

// Masked is the number for logs: "+86138****8000". Of a number of 11 digits or
// more it shows the first three and the last four; of shorter ones at most
// half, and never more than five digits.
func (p Phone) Masked() string {
	if p.IsZero() {
		return ""
	}
	n := len(p.National)
	head, tail := 3, 4
	if n < 11 {
		shown := min(n/2, 5)
		tail = (shown + 1) / 2
		head = shown - tail
	}
	return "+" + p.Country + p.National[:head] + strings.Repeat("*", n-head-tail) + p.National[n-tail:]
}

// String is [Phone.Masked], so that a number printed by accident is not told.
func (p Phone) String() string { return p.Masked() }

// GoString keeps %#v from telling the number.
func (p Phone) GoString() string { return "user.Phone(" + p.Masked() + ")" }

// digits takes what people write between digits out of s. plus says that a
// plus sign stood before the first digit.
func digits(s string) (out string, plus, ok bool) {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r >= '0' && r <= '9':
			b.WriteRune(r)
		case r >= '０' && r <= '９':
			b.WriteRune(r - '０' + '0')
		case (r == '+' || r == '＋') && b.Len() == 0 && !plus:
			plus = true
		case strings.ContainsRune("().（）", r), unicode.Is(unicode.Pd, r), r == '−', unicode.IsSpace(r), unicode.Is(unicode.Cf, r):
			// Brackets, dots, dashes, spaces, and the invisible direction marks
			// that come along when a number is copied from an address book.
		default:
			return "", false, false
		}
	}
	return b.String(), plus, true
}
