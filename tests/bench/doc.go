// Package bench measures what the gateway costs compared with a Caddy without it, and
// writes the tables of docs/benchmarks.md:
//
//	go test ./tests/bench -full -write -v -timeout 60m
//
// Without -full it runs for seconds, with too few requests to mean anything, and only
// shows that everything still works. It needs Linux, for the processor time of another
// process. Its results mean nothing on a machine that is otherwise busy.
package bench
