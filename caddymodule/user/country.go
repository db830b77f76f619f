package user

import "strings"

// callingCodes are the ITU-T E.164 country codes in use, including the shared ones
// (800, 870, 88x). No code begins with another one.
const callingCodes = " 1 7 " +
	"20 211 212 213 216 218 220 221 222 223 224 225 226 227 228 229 230 231 232 233 234 235 236 237 238 239 " +
	"240 241 242 243 244 245 246 247 248 249 250 251 252 253 254 255 256 257 258 260 261 262 263 264 265 266 267 268 269 " +
	"27 290 291 297 298 299 " +
	"30 31 32 33 34 350 351 352 353 354 355 356 357 358 359 36 370 371 372 373 374 375 376 377 378 379 " +
	"380 381 382 383 385 386 387 389 39 " +
	"40 41 420 421 423 43 44 45 46 47 48 49 " +
	"500 501 502 503 504 505 506 507 508 509 51 52 53 54 55 56 57 58 590 591 592 593 594 595 596 597 598 599 " +
	"60 61 62 63 64 65 66 670 672 673 674 675 676 677 678 679 680 681 682 683 685 686 687 688 689 690 691 692 " +
	"800 808 81 82 84 850 852 853 855 856 86 870 878 880 881 882 883 886 888 " +
	"90 91 92 93 94 95 960 961 962 963 964 965 966 967 968 970 971 972 973 974 975 976 977 979 98 992 993 994 995 996 998 "

// ValidCountry reports whether code is a complete country calling code in digits, such as "86". The
// beginning of a code ("85") is not valid, and neither is a code with an area code ("1264").
func ValidCountry(code string) bool {
	calling, rest, ok := splitCode(code)
	return ok && calling == code && rest == ""
}

// splitCode splits s after the calling code with which it begins.
func splitCode(s string) (code, rest string, ok bool) {
	for n := 1; n <= 3 && n <= len(s); n++ {
		if strings.Contains(callingCodes, " "+s[:n]+" ") {
			return s[:n], s[n:], true
		}
	}
	return "", "", false
}

// plan describes a country's numbers well enough to distinguish a prefix from the number itself.
// For a country without a plan, nothing is removed from a number: a leading zero, or the country's
// code, may belong to it.
type plan struct {
	// short and long are the minimum and maximum lengths of national numbers, without
	// trunk prefix.
	short, long int
	// trunk is dialled before national numbers inside the country. No national number
	// begins with it. It is empty if the country has none.
	trunk string
}

// plans lists countries in which most of WeChat's users live. Their national numbers never begin
// with the trunk prefix. Italy (39), Côte d'Ivoire (225), Benin (229), Gabon (241) and Congo (242)
// are omitted on purpose: the zero is part of their numbers.
var plans = map[string]plan{
	"1":   {10, 10, ""},
	"20":  {8, 10, "0"},
	"27":  {9, 9, "0"},
	"31":  {9, 9, "0"},
	"32":  {8, 9, "0"},
	"33":  {9, 9, "0"},
	"34":  {9, 9, ""},
	"40":  {9, 9, "0"},
	"41":  {9, 9, "0"},
	"44":  {9, 10, "0"},
	"46":  {7, 9, "0"},
	"48":  {9, 9, ""},
	"49":  {0, 0, "0"},
	"60":  {8, 10, "0"},
	"61":  {9, 9, "0"},
	"62":  {8, 12, "0"},
	"63":  {8, 10, "0"},
	"64":  {8, 10, "0"},
	"65":  {8, 8, ""},
	"66":  {8, 9, "0"},
	"7":   {10, 10, "8"},
	"81":  {9, 10, "0"},
	"82":  {8, 10, "0"},
	"84":  {9, 10, "0"},
	"852": {8, 8, ""},
	"853": {8, 8, ""},
	"855": {8, 9, "0"},
	"856": {8, 10, "0"},
	"86":  {10, 11, "0"},
	"880": {8, 10, "0"},
	"886": {8, 9, "0"},
	"90":  {10, 10, "0"},
	"91":  {10, 10, "0"},
	"92":  {9, 10, "0"},
	"94":  {9, 9, "0"},
	"95":  {7, 10, "0"},
	"971": {8, 9, "0"},
	"972": {8, 9, "0"},
	"977": {8, 10, "0"},
}

// fits reports whether a national number can have n digits.
func (p plan) fits(n int) bool { return p.long > 0 && n >= p.short && n <= p.long }

// bare removes repeated country codes and trunk prefixes from number until none is
// left, so that applying bare to its result changes nothing.
func (p plan) bare(number, code string) string {
	for {
		shorter := p.trunkless(p.strip(number, code))
		if len(shorter) == len(number) {
			return number
		}
		number = shorter
	}
}

// strip removes a repeated country code from number. It removes "0086" if the rest has a valid
// length, or if the country's lengths are unknown. It removes "86" only if the number is too long
// with it, and has a valid length without it.
func (p plan) strip(number, code string) string {
	if rest, ok := strings.CutPrefix(number, "00"+code); ok && (p.long == 0 || p.fits(len(p.trunkless(rest)))) {
		return rest
	}
	rest, ok := strings.CutPrefix(number, code)
	if ok && len(number) > p.long && p.fits(len(p.trunkless(rest))) {
		return rest
	}
	return number
}

// trunkless removes the trunk prefix from number. It removes all zeros of a repeated zero. It
// removes any other prefix only if the number is too long with it, because Russian numbers may
// begin with an 8, which is also the trunk prefix.
func (p plan) trunkless(number string) string {
	switch {
	case p.trunk == "0":
		return strings.TrimLeft(number, "0")
	case p.trunk != "" && len(number) == p.long+len(p.trunk):
		return strings.TrimPrefix(number, p.trunk)
	}
	return number
}
