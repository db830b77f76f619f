package user

import (
	"fmt"
	"strings"
	"unicode"
)

// Phone is a phone number in its single normal form: digits only, in two parts, such as
// "86" and "13800138000". The country part is always a complete ITU calling code. No
// such code begins with another one, so two numbers are equal exactly if their E.164
// forms are equal.
//
// A printed Phone is masked.
type Phone struct{ Country, National string }

// Both limits include the calling code. E.164 allows 15 digits. The minimum is generous: on small
// islands, the shortest numbers that a person can own have four digits without the calling code.
const (
	minDigits = 4
	maxDigits = 15
)

// ParsePhone parses WeChat's countryCode and purePhoneNumber. It accepts both in the
// forms that people write: with full-width digits, spaces, dashes and brackets; with
// "+" or "00" before the calling code; with an area code after it ("1264" is "1" and
// the first digits of the number); with the calling code repeated before the number;
// with trunk zeros ("0912…" in Taiwan) if no number of that country begins with a zero.
// All spellings of one number become the same Phone.
//
// An empty country is accepted if national begins with "+", so that ParsePhone("",
// p.E164()) is p. Anything that is not a phone number is [ErrPhone]. The error does not
// contain the number.
func ParsePhone(country, national string) (Phone, error) {
	if len(country) > 64 || len(national) > 128 {
		return Phone{}, fmt.Errorf("%w: too long", ErrPhone)
	}
	code, _, ok := digits(country)
	if !ok {
		return Phone{}, fmt.Errorf("%w: the country code contains something other than digits", ErrPhone)
	}
	number, international, ok := digits(national)
	if !ok {
		return Phone{}, fmt.Errorf("%w: the number contains something other than digits", ErrPhone)
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
			return Phone{}, fmt.Errorf("%w: the number has another country than the country code", ErrPhone)
		}
	}
	number = plan.bare(number, calling)
	if area != "" {
		// "1264" is Anguilla, whose numbers are +1 264 497 1234. Only if all numbers of a country
		// have the same length, the length shows whether a number already includes the area code.
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

// E164 returns the number in the form of ITU-T E.164, "+8613800138000". It is empty for
// the zero Phone.
func (p Phone) E164() string {
	if p.IsZero() {
		return ""
	}
	return "+" + p.Country + p.National
}

// IsZero reports whether there is no number.
func (p Phone) IsZero() bool { return p == Phone{} }

// Masked returns the number for logs: "+86138****8000". A number of 11 digits or more
// keeps its first three and last four digits; a shorter one keeps at most half, and
// never more than five.
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

// String is [Phone.Masked], so that printing a number by accident does not reveal it.
func (p Phone) String() string { return p.Masked() }

// GoString is [Phone.Masked] for %#v.
func (p Phone) GoString() string { return "user.Phone(" + p.Masked() + ")" }

// digits removes the characters that people write between digits. plus is true if there is a plus
// sign before the first digit.
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
			// Skip brackets, dots, dashes and spaces. Also skip the invisible direction marks that
			// are copied along with a number from an address book.
		default:
			return "", false, false
		}
	}
	return b.String(), plus, true
}
