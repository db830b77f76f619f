package tests

import (
	"encoding/json"
	"go/parser"
	"go/token"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// checkers returns, for a language, the command that reads a program from its standard
// input and only parses it.
var checkers = map[string][]string{
	"sh":     {"bash", "-n"},
	"js":     {"node", "--check", "--input-type=module", "-"},
	"python": {"python3", "-c", "import ast, sys; ast.parse(sys.stdin.read())"},
	"php":    {"php", "-l"},
}

// parses reports why a code block is not a program of its language. Placeholders for what a
// reader fills in, such as <id>, are replaced first.
func parses(language, text string) error {
	switch language {
	case "go":
		var imports, rest []string
		for _, line := range strings.Split(text, "\n") {
			if strings.HasPrefix(line, "import ") {
				imports = append(imports, line)
			} else {
				rest = append(rest, line)
			}
		}
		_, err := parser.ParseFile(token.NewFileSet(), "", "package p\n"+strings.Join(imports, "\n")+"\nfunc _() {\n"+strings.Join(rest, "\n")+"\n}\n", 0)
		return err
	case "json":
		dec := json.NewDecoder(strings.NewReader(strings.NewReplacer("{…}", "{}", "[…]", "[]").Replace(text)))
		for dec.More() {
			var v any
			if err := dec.Decode(&v); err != nil {
				return err
			}
		}
		return nil
	}
	command := checkers[language]
	if language == "php" {
		text = "<?php\n" + text
	}
	if language == "sh" {
		text = strings.NewReplacer("<", "_", ">", "_", "…", "x").Replace(strings.ReplaceAll(text, "<<'END'", ""))
	}
	if _, err := exec.LookPath(command[0]); err != nil {
		return nil // the language is not on this machine
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		return &parseError{string(out)}
	}
	return nil
}

type parseError struct{ text string }

func (e *parseError) Error() string { return e.text }

// A reader copies a block of a page. The block must at least be a program of its language;
// other tests also run some of the blocks.
func TestBlocksOfDocumentsParse(t *testing.T) {
	t.Parallel()
	tried := make(map[string]bool)
	for name, d := range documents(t) {
		if !strings.HasPrefix(name, "docs/") && !strings.HasPrefix(name, "README") && !strings.HasPrefix(name, "client/") {
			continue
		}
		for _, b := range d.blocks {
			if checkers[b.language] == nil && !slices.Contains([]string{"go", "json"}, b.language) {
				continue
			}
			if tried[b.text] {
				continue
			}
			tried[b.text] = true
			if err := parses(b.language, b.text); err != nil {
				t.Errorf("%s:%d: %v\n%s", name, b.line, err, b.text)
			}
		}
	}
	if len(tried) < 40 {
		t.Errorf("only %d blocks", len(tried))
	}
}
