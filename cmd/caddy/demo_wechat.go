package main

import (
	"net/http"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/wechat/wechattest"
)

// watchWeChat writes each call into the journal, with its result.
func (s *stage) watchWeChat(r *http.Request, seen *wechattest.Recorder, start time.Time) {
	s.journal.add(event{Kind: "wechat", Of: s.login.Load(), Method: r.Method, Path: r.URL.Path, Outcome: seen.Outcome(), Millis: millis(start)})
}
