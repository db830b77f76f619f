package wechat

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestExternalToken takes tokens from a central service in each format that such
// services use. Error pages must not be taken for a token.
func TestExternalToken(t *testing.T) {
	a := newAPI(t)
	tests := []struct {
		name, body string
		life       time.Duration // 0: refused
	}{
		{"WeChat's JSON", `{"access_token":"TOKEN-ext","expires_in":7200}`, 2 * time.Hour},
		{"seconds as a string", `{"access_token":"TOKEN-ext","expires_in":"600"}`, 10 * time.Minute},
		{"too long a life", `{"access_token":"TOKEN-ext","expires_in":9000000000000000000}`, 2 * time.Hour},
		{"no life", `{"access_token":"TOKEN-ext"}`, time.Minute},
		{"bare", "TOKEN-ext\n", time.Minute},
		{"bare in quotes", `"TOKEN-ext"`, time.Minute},
		{"html", "<html></html>", 0},
		{"words", "not found", 0},
		{"empty", "", 0},
		{"an errcode", fails(40013), 0},
		{"other JSON", `{"token":"TOKEN-ext"}`, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var query, user string
			a.on("/central", func(w http.ResponseWriter, r *http.Request) {
				query = r.URL.RawQuery
				user, _, _ = r.BasicAuth()
				io.WriteString(w, tt.body)
			})
			clock := newClock()
			c := newClient(t, clock, "http://unused.invalid")
			c.Tokens = NewExternalToken(strings.Replace(a.URL, "://", "://me:pw@", 1) + "/central?key=K&app={appid}")
			got, err := c.token(context.Background(), testApp)
			if query != "key=K&app="+testApp.ID || user != "me" {
				t.Errorf("asked for %q as %q", query, user)
			}
			if tt.life == 0 {
				failed(t, err)
				return
			}
			if err != nil || got != "TOKEN-ext" {
				t.Fatalf("%q %v", got, err)
			}
			before := a.count("/central")
			clock.add(tt.life * 5 / 6 * 99 / 100)
			c.token(context.Background(), testApp)
			if a.count("/central") != before {
				t.Error("asked again too early")
			}
			clock.add(tt.life)
			c.token(context.Background(), testApp)
			if a.count("/central") != before+1 {
				t.Error("not asked again")
			}
		})
	}
	for status, kind := range map[int]Kind{401: KindOperator, 404: KindOperator, 302: KindBadAnswer, 500: KindBadAnswer} {
		a.on("/central", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(status) })
		c := newClient(t, newClock())
		c.Tokens = NewExternalToken(a.URL + "/central")
		if e := failed(t, ask(c, CallToken)); e.Kind != kind || e.Status != status {
			t.Errorf("%d: %#v", status, e)
		}
		if e := failed(t, ask(c, CallToken)); e.Repeated != (kind == KindOperator) {
			t.Errorf("%d: %#v", status, e)
		}
	}
}
