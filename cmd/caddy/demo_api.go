package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
)

// sampleAPI is an API like those behind the gateway: for authentication it only reads headers.
// It answers with the identity in those headers; one public path answers with the goods of a
// shop.
type sampleAPI struct {
	hits  atomic.Int64
	watch func(r *http.Request, seen map[string]string)
}

// good is something that the shop sells.
type good struct {
	ID    string `json:"id"`
	Zh    string `json:"zh"`
	En    string `json:"en"`
	Price int    `json:"price"` // in yuan
}

var goods = []good{{"longjing", "明前龙井", "Longjing tea", 68}, {"cup", "青瓷杯", "Celadon cup", 45}, {"pot", "紫砂壶", "Yixing teapot", 239}}

func (a *sampleAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.hits.Add(1)
	seen := make(map[string]string)
	for name, values := range r.Header {
		if strings.HasPrefix(name, "X-Wx-") || name == "Authorization" {
			seen[name] = strings.Join(values, ", ")
		}
	}
	a.watch(r, seen)
	w.Header().Set("Content-Type", "application/json")
	if r.URL.Path == "/public/goods" {
		_ = json.NewEncoder(w).Encode(goods)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{
		"path": r.URL.Path, "hello": r.Header.Get("X-WX-USER-ID"), "headers": seen,
	})
}
