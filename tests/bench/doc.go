// Package bench measures what the gateway costs beside a Caddy without it, and
// writes the table of BENCHMARKS.md:
//
//	go test ./tests/bench -full -write -v -timeout 60m
//
// Without -full it is a run of seconds with too few requests to mean anything,
// which shows that all of it still works. It needs Linux, for the processor time of
// another process, and tells nothing on a machine that is busy otherwise.
package bench
