// Package cachebench compares the cache of verified tokens with two libraries. It is a
// separate module, so that no build of the gateway depends on these libraries:
//
//	cd caddymodule/internal/token/cachebench && go test -bench . -cpu 1,2
package cachebench
