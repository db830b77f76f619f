package rig

import (
	"net/http"
	"os/exec"
	"testing"
	"time"
)

// StartSimulator runs cmd/wx-sim with further flags until the test's end, and returns its
// base URL.
func StartSimulator(t testing.TB, flags ...string) string {
	t.Helper()
	address := FreeAddress(t)
	StartProgram(t, exec.Command(Simulator(t), append([]string{"-listen", address}, flags...)...))
	Await(t, 30*time.Second, "wx-sim listens", func() bool {
		resp, err := http.Get("http://" + address + "/_control/clock")
		if err == nil {
			resp.Body.Close()
		}
		return err == nil
	})
	return "http://" + address
}
