//go:build linux

package bench

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

// inProcess runs the packages' own benchmarks.
func inProcess(t *testing.T, p *page) {
	p.heading("In process")
	p.text("`-2` means that both cores are used. `x-bare` is the ratio to the standard library's bare signature check, or bare signature, measured alternately.")
	p.table("benchmark", "time", "allocations", "other")
	type bench struct{ pkg, pattern, time string }
	benches := []bench{{"./caddymodule/internal/gate", "Path", "10x"}}
	if *full {
		benches = []bench{
			{"./caddymodule/internal/token", ".", "0.5s"}, {"./caddymodule/internal/gate", ".", "0.5s"},
			{"./caddymodule/internal/session", ".", "0.5s"}, {"./caddymodule", "Handler", "0.5s"},
		}
	}
	for _, b := range benches {
		cmd := exec.Command("go", "test", "-run", "^$", "-bench", b.pattern, "-benchtime", b.time, "-cpu", "1,2", "-timeout", "15m", b.pkg)
		cmd.Dir = "../.."
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", b.pkg, err, out)
		}
		for line := range strings.Lines(string(out)) {
			if cells := benchmarkCells(line); cells != nil {
				t.Log(strings.Join(cells, "  "))
				p.row(cells...)
			}
		}
	}
	p.end()
}

// benchmarkCells returns the columns of a line of `go test -bench`, or nil if it is not
// a result.
func benchmarkCells(line string) []string {
	f := strings.Fields(line)
	name, ok := strings.CutPrefix(f[0], "Benchmark")
	if !ok || len(f) < 4 {
		return nil
	}
	var took, allocations string
	var others []string
	for i := 2; i+1 < len(f); i += 2 {
		switch value, unit := f[i], f[i+1]; unit {
		case "ns/op":
			took = value + " ns"
		case "allocs/op":
			allocations = value
		case "B/op":
		default:
			others = append(others, fmt.Sprintf("%s %s", value, unit))
		}
	}
	return []string{"`" + name + "`", took, allocations, strings.Join(others, ", ")}
}
