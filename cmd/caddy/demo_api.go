package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
)

// sampleAPI is an API like those behind the gateway: for authentication it only reads
// headers. It answers with the identity that it received.
type sampleAPI struct{ hits atomic.Int64 }

func (a *sampleAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.hits.Add(1)
	seen := make(map[string]string)
	for name, values := range r.Header {
		if strings.HasPrefix(name, "X-Wx-") || name == "Authorization" {
			seen[name] = strings.Join(values, ", ")
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"path": r.URL.Path, "hello": r.Header.Get("X-WX-USER-ID"), "headers": seen,
	})
}
