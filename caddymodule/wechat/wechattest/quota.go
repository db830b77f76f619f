package wechattest

import "time"

// These are the quotas that WeChat publishes.
var (
	publishedDaily  = map[Call]int{StableToken: 500_000, ClassicToken: 2_000}
	publishedMinute = map[Call]int{StableToken: 10_000}
)

// chinaDay shifts Unix time so that days begin at midnight in China.
const chinaDay = 8 * time.Hour

// quota is one of an app's limits.
type quota struct {
	call   Call
	window time.Duration
}

// usage counts a limited call in the current window.
type usage struct {
	window int64
	calls  int
}

// spend counts one call against the app's quotas. It returns 0, or the errcode of a quota that
// is used up.
func (a *appState) spend(call Call, now time.Time) int {
	day, minute := a.usage(quota{call, 24 * time.Hour}, now), a.usage(quota{call, time.Minute}, now)
	if limit, ok := limitOf(call, a.DailyQuota, publishedDaily); ok && day.calls >= limit {
		return 45009
	}
	if limit, ok := limitOf(call, a.MinuteQuota, publishedMinute); ok && minute.calls >= limit {
		return 45011
	}
	day.calls++
	minute.calls++
	return 0
}

func limitOf(call Call, own, published map[Call]int) (int, bool) {
	if limit, ok := own[call]; ok {
		return limit, true
	}
	limit, ok := published[call]
	return limit, ok
}

// usage returns the count for the current window.
func (a *appState) usage(q quota, now time.Time) *usage {
	window := now.Add(chinaDay).Unix() / int64(q.window/time.Second)
	u := a.used[q]
	if u == nil || u.window != window {
		u = &usage{window: window}
		a.used[q] = u
	}
	return u
}
