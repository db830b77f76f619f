package login

import "testing"

// If two different pairs of codes had one key, a client could get another's result.
func TestKeysDifferHoweverTheCodesAreCut(t *testing.T) {
	lists := [][]string{{"a|b", "c"}, {"a", "b|c"}, {"ab", "c"}, {"a", "bc"}, {"abc", ""}, {"", "abc"}, {"abc"}, {"a", "b", "c"}, {}}
	seen := make(map[Key][]string)
	for _, parts := range lists {
		for _, kind := range []string{"code", "phone"} {
			k := keyOf(kind, parts...)
			if other, ok := seen[k]; ok {
				t.Errorf("%q and %q share a key", other, parts)
			}
			seen[k] = append([]string{kind}, parts...)
		}
	}
}
