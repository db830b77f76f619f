package metrics

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var quoted = regexp.MustCompile("[\"`](\\w+)[\"`]")

// words returns the words in quotes.
func words(text string) (list []string) {
	for _, m := range quoted.FindAllStringSubmatch(text, -1) {
		list = append(list, m[1])
	}
	return list
}

// Operators write alerts from the table in docs/monitoring.md. The table must list each metric with
// its labels, and no other.
func TestPageHasEachMetric(t *testing.T) {
	known := make(map[string][]string)
	for _, file := range []string{"metrics.go", "collect.go"} {
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?:count\(|times\(|newGauge\(|namespace\+|Name: )"_?(\w+)"(?:, "[^"]*"([^)\n]*)|, Help: "[^"]*", ConstLabels: prometheus.Labels\{("\w+"))?`).FindAllStringSubmatch(string(source), -1) {
			known["caddy_wx_auth_"+m[1]] = words(m[2] + m[3])
		}
	}
	if len(known) < 15 {
		t.Fatalf("only %d metrics: %v", len(known), known)
	}
	for _, page := range []string{"../../../docs/monitoring.md", "../../../docs/zh/monitoring.md"} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		found := make(map[string]bool)
		for _, row := range regexp.MustCompile("(?m)^\\| (`caddy_wx_auth_[^|]*) \\|([^|]*)\\|").FindAllStringSubmatch(string(text), -1) {
			for _, name := range words(row[1]) {
				labels, ok := known[name]
				if found[name] = true; !ok {
					t.Errorf("%s has %s, which does not exist", page, name)
				} else if has := words(row[2]); strings.Join(has, " ") != strings.Join(labels, " ") {
					t.Errorf("%s: %s has the labels %v, but the page lists %v", page, name, labels, has)
				}
			}
		}
		names := make([]string, 0, len(known))
		for name := range known {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			if !found[name] {
				t.Errorf("%s has no row for %s", page, name)
			}
		}
	}
}
