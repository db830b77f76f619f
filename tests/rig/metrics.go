package rig

import (
	"strconv"
	"strings"
	"testing"
)

// Metrics are the series of a scrape with their values: `name{label="value"}`, with the
// labels in the order of the alphabet.
type Metrics map[string]float64

// Metrics scrapes Caddy's admin endpoint.
func (c *Caddy) Metrics(t testing.TB) Metrics {
	t.Helper()
	text, err := c.Admin("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	series := make(Metrics)
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		cut := strings.LastIndexByte(line, ' ')
		if line == "" || line[0] == '#' || cut < 0 {
			continue
		}
		value, err := strconv.ParseFloat(line[cut+1:], 64)
		if err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		series[line[:cut]] = value
	}
	return series
}

// Sum adds the series of a metric that have all of these labels, each written as
// `name="value"`.
func (m Metrics) Sum(name string, labels ...string) (sum float64) {
	for series, value := range m {
		rest, ok := strings.CutPrefix(series, name)
		if !ok || rest != "" && rest[0] != '{' {
			continue
		}
		for _, l := range labels {
			ok = ok && (strings.Contains(rest, "{"+l) || strings.Contains(rest, ","+l))
		}
		if ok {
			sum += value
		}
	}
	return sum
}
