// Package bench measures the cost of the gateway by comparison with a Caddy without it,
// and writes the tables of BENCHMARKS.md:
//
//	go test ./tests/bench -full -write -v -timeout 60m
//
// Without -full a run takes seconds. It makes too few requests for meaningful results,
// but shows that everything works. The package needs Linux for the processor time of
// another process, and its results are useless on a machine that is busy otherwise.
package bench
