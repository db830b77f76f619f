package rig

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

// beforeTimeout is how long before -timeout the tests of a package end by themselves. The
// testing package would print the stacks of all goroutines, which are thousands of lines.
const beforeTimeout = 5 * time.Second

// endLate prints where each test is, and ends the process.
func endLate() {
	stacks := make([]byte, 16<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	fmt.Printf("FAIL: -timeout is near. These tests are under way:\n%s\n", underWay(stacks))
	os.RemoveAll(scratch)
	os.Exit(1)
}

// underWay returns the tests in the stacks of all goroutines, one a line: the name of the
// function and the line where it waits. Tests that wait for their turn are left out.
func underWay(stacks []byte) string {
	var lines []string
	for _, stack := range strings.Split(string(bytes.TrimSpace(stacks)), "\n\n") {
		if !strings.Contains(stack, "testing.tRunner(") || strings.Contains(stack, "testing.(*T).Parallel(") || strings.Contains(stack, "testing.(*T).Run(") {
			continue
		}
		// A frame has two lines. The outermost ones are the testing package's, and next to
		// them is the test.
		frames := strings.Split(stack, "\n")[1:]
		for i := 0; i+1 < len(frames); i += 2 {
			if strings.HasPrefix(frames[i], "testing.tRunner(") && i >= 2 && !strings.HasPrefix(frames[i-2], "testing.") {
				name, _, _ := strings.Cut(frames[i-2], "(0x")
				at, _, _ := strings.Cut(strings.TrimSpace(frames[i-1]), " +")
				lines = append(lines, name+" "+at)
			}
		}
	}
	return strings.Join(lines[:min(len(lines), reportLines)], "\n")
}
