// Package cachebench compares the cache of verified tokens with two libraries. It is
// a module of its own, so that nobody's build has them:
//
//	cd caddymodule/internal/token/cachebench && go test -bench . -cpu 1,2
package cachebench
