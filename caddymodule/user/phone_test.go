package user_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/user"
)

// All spellings of one number must give the same Phone. If two differed, one person would become
// two users.
func TestEverySpellingOfANumberIsOnePhone(t *testing.T) {
	for want, spellings := range map[string][][2]string{
		"+8613800138000": {
			{"86", "13800138000"}, {"+86", "13800138000"}, {"0086", "13800138000"}, {" 86 ", "138 0013 8000"},
			{"86", "138-0013-8000"}, {"86", "+86 138 0013 8000"}, {"86", "8613800138000"}, {"86", "008613800138000"},
			{"86", "013800138000"}, {"８６", "１３８００１３８０００"}, {"＋86", "＋８６13800138000"}, {"86", "\u202a13800138000\u202c"},
			{"86", "(138) 0013.8000"}, {"86", "138　0013　8000"}, {"", "+8613800138000"},
		},
		"+85291234567":  {{"852", "91234567"}, {"852", "85291234567"}, {"852", "9123 4567"}, {"", "+852 9123 4567"}},
		"+85285212345":  {{"852", "85212345"}},
		"+85366123456":  {{"853", "66123456"}, {"00853", "66123456"}},
		"+886912345678": {{"886", "912345678"}, {"886", "0912345678"}, {"886", "8860912345678"}, {"886", "+8860912345678"}},
		"+819012345678": {{"81", "9012345678"}, {"81", "09012345678"}},
		"+12025550123":  {{"1", "2025550123"}, {"1", "12025550123"}, {"001", "(202) 555-0123"}},
		"+12644971234":  {{"1264", "4971234"}, {"1-264", "4971234"}, {"1", "2644971234"}, {"1264", "2644971234"}, {"1264", "12644971234"}, {"1264", "+12644971234"}},
		"+79161234567":  {{"7", "9161234567"}, {"7", "89161234567"}, {"7", "79161234567"}},
		"+77012345678":  {{"7", "7012345678"}, {"77", "012345678"}, {"77", "7012345678"}},
		"+79001234567":  {{"7", "9001234567"}},
		"+78001234567":  {{"7", "8001234567"}},
		"+390612345678": {{"39", "0612345678"}, {"39", "00390612345678"}},
		"+2250712345678": {
			{"225", "0712345678"},
		},
		"+4915112345678": {{"49", "15112345678"}, {"49", "015112345678"}, {"49", "004915112345678"}},
		"+2474123":       {{"247", "4123"}},
	} {
		for _, s := range spellings {
			p, err := user.ParsePhone(s[0], s[1])
			if err != nil || p.E164() != want {
				t.Errorf("ParsePhone(%q, %q) = %q, %v; want %q", s[0], s[1], p.E164(), err, want)
			}
		}
	}
}

// A text that is not a phone number is refused. The error must not contain it: errors are logged,
// and an almost correct number still identifies a person.
func TestTextThatIsNoPhoneNumberIsRefused(t *testing.T) {
	for _, c := range [][2]string{
		{"", ""}, {"86", ""}, {"", "13800138000"}, {"0", "13800138000"}, {"86", "1380013800x"}, {"8x", "13800138000"},
		{"210", "13800138000"}, {"999", "13800138000"}, {"86", "+85291234567"}, {"86", "1"}, {"86", "00000"},
		{"86", "12345678901234"}, {"86", "138+0013"}, {"86", "++13800138000"}, {"86", strings.Repeat(" ", 200) + "13800138000"},
		{"86", "٠١٢٣٤٥٦٧٨"}, {"86", "138\x0000138000"}, {"", "+"},
	} {
		p, err := user.ParsePhone(c[0], c[1])
		if !errors.Is(err, user.ErrPhone) || !p.IsZero() {
			t.Errorf("ParsePhone(%q, %q) = %v, %v; want ErrPhone", c[0], c[1], p, err)
			continue
		}
		if len(c[1]) > 3 && strings.Contains(err.Error(), c[1]) {
			t.Errorf("the error contains the number: %v", err)
		}
	}
}

// The same national number in two countries belongs to two people. If both gave the same Phone, one
// could log in as the other.
func TestTwoCountriesNumbersNeverCollide(t *testing.T) {
	seen := map[string]string{}
	for _, country := range []string{"1", "7", "20", "33", "39", "44", "49", "65", "81", "82", "86", "852", "853", "886", "225", "880"} {
		for _, national := range []string{"2025550123", "3800138000", "9123456789", "1234567891"} {
			p, err := user.ParsePhone(country, national)
			if err != nil {
				t.Fatal(country, national, err)
			}
			if other, taken := seen[p.E164()]; taken {
				t.Errorf("%s %s is %s, and so is %s", country, national, p.E164(), other)
			}
			seen[p.E164()] = country + " " + national
		}
	}
}

// Numbers are masked when they are printed. An operator can recognize a number in a log, but nobody
// can restore it.
func TestMaskedNumbersAreRecognizable(t *testing.T) {
	for _, c := range []struct{ country, national, want string }{
		{"86", "13800138000", "+86138****8000"},
		{"49", "151123456789", "+49151*****6789"},
		{"1", "2025550123", "+120*****123"},
		{"886", "912345678", "+88691*****78"},
		{"852", "91234567", "+85291****67"},
		{"247", "4123", "+2474**3"},
		{"290", "1", ""},
	} {
		p := user.Phone{Country: c.country, National: c.national}
		if c.want != "" && p.Masked() != c.want {
			t.Errorf("Masked(%s %s) = %s; want %s", c.country, c.national, p.Masked(), c.want)
		}
		shown := strings.TrimPrefix(p.Masked(), "+"+c.country)
		if len(shown) != len(c.national) {
			t.Errorf("%s: masked to another length", shown)
		}
		if n := len(shown) - strings.Count(shown, "*"); len(c.national) < 11 && n > 5 || n == len(c.national) {
			t.Errorf("%s shows %d digits", shown, n)
		}
		for _, printed := range []string{fmt.Sprint(p), fmt.Sprintf("%v %+v %#v %s", p, p, p, p), fmt.Sprintf("%+v", user.User{Phone: p}), fmt.Sprintf("%+v", &user.Login{Phone: p})} {
			if len(c.national) > 3 && strings.Contains(printed, c.national) {
				t.Errorf("printing reveals the number: %s", printed)
			}
		}
	}
	if (user.Phone{}).Masked() != "" || (user.Phone{}).E164() != "" {
		t.Error("the zero Phone is printed as a number")
	}
}

// An id may only have characters that a header and a token carry unchanged.
func TestValidID(t *testing.T) {
	for id, want := range map[string]bool{
		"u": true, "018f-…": false, "": false, "a b": false, "a\n": false, "~!x": true,
		strings.Repeat("x", 128): true, strings.Repeat("x", 129): false, "\x7f": false, "é": false,
	} {
		if user.ValidID(id) != want {
			t.Errorf("ValidID(%q) = %v", id, !want)
		}
	}
}

// A Phone that is parsed again, as a whole or in its parts, must stay the same. Otherwise a stored
// number would no longer find its user.
func FuzzParsePhoneIsStable(f *testing.F) {
	for _, s := range [][2]string{{"86", "13800138000"}, {"1264", "4971234"}, {"7", "89161234567"}, {"65", "656512345678"}, {"60", "606012345678"}, {"39", "0612"}, {"", "+886 0912"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, country, national string) {
		p, err := user.ParsePhone(country, national)
		if err != nil {
			return
		}
		if n := len(p.E164()) - 1; n < 4 || n > 15 {
			t.Fatalf("%d digits", n)
		}
		for _, again := range [][2]string{{p.Country, p.National}, {"", p.E164()}, {p.Country, p.E164()}} {
			q, err := user.ParsePhone(again[0], again[1])
			if err != nil || q != p {
				t.Fatalf("(%q, %q): %s, and then %s, %v", country, national, p.E164(), q.E164(), err)
			}
		}
	})
}

// A registration rule lists country codes. "85" must not be valid, because it would open
// registration for every code that begins with it.
func TestValidCountryTakesWholeCodesOnly(t *testing.T) {
	for code, want := range map[string]bool{
		"86": true, "852": true, "1": true, "7": true, "886": true, "": false, "85": false, "8": false, "+86": false,
		"086": false, "0086": false, "1264": false, "8613": false, "CN": false, "８６": false, "86 ": false, "999": false,
	} {
		if user.ValidCountry(code) != want {
			t.Errorf("ValidCountry(%q) = %v", code, !want)
		}
	}
}
