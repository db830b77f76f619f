package metrics

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// gauge is a metric that is read when it is scraped.
type gauge struct {
	desc   *prometheus.Desc
	labels int
	// join combines two values of one series. Two configurations, or two sites, may each report a
	// value.
	join func(a, b float64) float64
}

func newGauge(name, help string, join func(a, b float64) float64, labels ...string) *gauge {
	return &gauge{prometheus.NewDesc(prometheus.BuildFQName(namespace, "", name), help, labels, nil), len(labels), join}
}

func largest(a, b float64) float64  { return max(a, b) }
func smallest(a, b float64) float64 { return min(a, b) }
func sum(a, b float64) float64      { return a + b }

// Other parts of the process report the values of these gauges. A gauge is passed to
// [Metrics.Read].
var (
	BreakerOpen    = newGauge("wechat_breaker_open", "Whether the circuit breaker of a call is open.", largest, "wechat", "call")
	AccessTokenAge = newGauge("access_token_age_seconds", "Time since the access token in use was fetched.", smallest, "wechat", "app")
	CacheEntries   = newGauge("token_cache_entries", "Verified tokens in the caches.", sum)
	Sessions       = newGauge("sessions", "Live sessions, counted once a minute by the replica that does the housekeeping.", largest, "store")
	FeedAge        = newGauge("revocation_feed_age_seconds", "Time since revocations of other replicas were last read.", largest, "store")
)

var gauges = []*gauge{BreakerOpen, AccessTokenAge, CacheEntries, Sessions, FeedAge}

// The values of these metrics are in per-core counters.
var (
	hitsDesc    = prometheus.NewDesc(namespace+"_token_cache_hits_total", "Tokens that were found in a cache of verified tokens.", nil, nil)
	missesDesc  = prometheus.NewDesc(namespace+"_token_cache_misses_total", "Tokens that had to be verified.", nil, nil)
	refusedDesc = prometheus.NewDesc(namespace+"_requests_refused_total", "Requests that were refused, by code; logins and refreshes are counted by their own metrics.", []string{"code"}, nil)
)

// reading is a source of values for a gauge.
type reading struct {
	of   *gauge
	read func(yield func(value float64, labels ...string))
}

// Read registers a function that is called at each scrape, until remove is called. It must yield
// the values that are known.
func (m *Metrics) Read(of *gauge, read func(yield func(value float64, labels ...string))) (remove func()) {
	r := &reading{of, read}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reads[r] = true
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.reads, r)
	}
}

// Register adds the metrics to the registry of a configuration.
func (m *Metrics) Register(to prometheus.Registerer) error {
	err := to.Register(m)
	if errors.As(err, new(prometheus.AlreadyRegisteredError)) {
		return nil
	}
	return err
}

func (m *Metrics) vectors() []prometheus.Collector {
	return []prometheus.Collector{m.logins, m.phoneCodes, m.refreshes, m.calls, m.callTimes, m.fetches, m.operations, m.operationTime, m.retries, m.panics, m.build}
}

// Describe implements [prometheus.Collector].
func (m *Metrics) Describe(to chan<- *prometheus.Desc) {
	for _, v := range m.vectors() {
		v.Describe(to)
	}
	for _, g := range gauges {
		to <- g.desc
	}
	to <- hitsDesc
	to <- missesDesc
	to <- refusedDesc
}

// Collect implements [prometheus.Collector].
func (m *Metrics) Collect(to chan<- prometheus.Metric) {
	for _, v := range m.vectors() {
		v.Collect(to)
	}
	count := func(desc *prometheus.Desc, n uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(n), labels...)
	}
	count(hitsDesc, m.Hits.Sum())
	count(missesDesc, m.Misses.Sum())
	for code, c := range m.refused {
		count(refusedDesc, c.Sum(), string(code))
	}
	for _, g := range gauges {
		for l, value := range m.readAll(g) {
			to <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, value, l[:g.labels]...)
		}
	}
}

// labels are the values of a gauge's labels. A gauge has at most two.
type labels [2]string

// readAll returns the values of a gauge. A circuit breaker for which no value is reported counts as
// closed.
func (m *Metrics) readAll(g *gauge) map[labels]float64 {
	m.mu.Lock()
	var all []*reading
	for r := range m.reads {
		if r.of == g {
			all = append(all, r)
		}
	}
	found := make(map[labels]float64)
	switch g {
	case BreakerOpen:
		for name := range m.wechats {
			for _, call := range calls {
				found[labels{name, string(call)}] = 0
			}
		}
	case CacheEntries:
		found[labels{}] = 0
	}
	m.mu.Unlock()
	for _, r := range all {
		r.read(func(value float64, names ...string) {
			var l labels
			copy(l[:], names)
			if g == AccessTokenAge {
				l[1] = m.known(l[1])
			}
			if before, ok := found[l]; ok {
				value = g.join(before, value)
			}
			found[l] = value
		})
	}
	return found
}

// Interface guards
var _ prometheus.Collector = (*Metrics)(nil)
