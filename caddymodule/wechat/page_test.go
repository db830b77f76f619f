package wechat

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// An operator looks up an errcode. The page has each errcode that is treated in its own way,
// with a remedy if there is one. It has no errcode that the code does not know.
func TestPageHasEachErrcode(t *testing.T) {
	source, err := os.ReadFile("codes.go")
	if err != nil {
		t.Fatal(err)
	}
	known := map[int]bool{-1: true, 45011: true}
	for _, line := range regexp.MustCompile(`(?m)^\s*case ([0-9, ]+):`).FindAllStringSubmatch(string(source), -1) {
		for _, code := range strings.Split(line[1], ", ") {
			n, err := strconv.Atoi(code)
			if err != nil {
				t.Fatal(err)
			}
			known[n] = true
		}
	}
	if len(known) < 40 {
		t.Fatalf("only %d errcodes", len(known))
	}
	for _, page := range []string{"../../docs/troubleshooting.md", "../../docs/zh/troubleshooting.md"} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		found := make(map[int]bool)
		for _, row := range regexp.MustCompile("(?m)^\\| (`-?\\d+`[^|]*) \\|").FindAllStringSubmatch(string(text), -1) {
			for _, m := range regexp.MustCompile("`(-?\\d+)`(?:–`(\\d+)`)?").FindAllStringSubmatch(row[1], -1) {
				first, _ := strconv.Atoi(m[1])
				last := first
				if m[2] != "" {
					last, _ = strconv.Atoi(m[2])
				}
				for code := first; code <= last; code++ {
					found[code] = true
				}
			}
		}
		for code := range known {
			if !found[code] {
				t.Errorf("%s lacks %d", page, code)
			}
		}
		for code := range found {
			if !known[code] {
				t.Errorf("%s has %d, which is not known", page, code)
			}
		}
	}
}
