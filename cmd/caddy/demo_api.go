package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync/atomic"
)

// sampleAPI is an API like the ones behind the gateway: it does nothing for
// authentication but read headers. It answers which identity it was shown.
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
