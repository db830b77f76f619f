package cli

import (
	"bufio"
	"fmt"
	"os"
	"strings"
)

// LoadEnvFile sets the environment variables that are listed in a file, as Caddy's --envfile does.
// A variable that is set already keeps its value. Errors contain no value.
func LoadEnvFile(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("reading environment file: %w", err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		key = strings.TrimPrefix(key, "export ")
		if !ok || key == "" || strings.Contains(key, " ") || strings.HasPrefix(value, " ") || strings.HasPrefix(value, "\t") {
			return fmt.Errorf("%s, line %d: write KEY=VALUE, without blanks around the =", path, n)
		}
		// By Caddy's rule, a # begins a comment even within quotes.
		if before, _, found := strings.Cut(value, "#"); found {
			value = strings.TrimRight(before, " \t")
		}
		if quote := value[:min(1, len(value))]; quote == `"` || quote == "'" {
			for !strings.HasSuffix(line, quote) || strings.HasSuffix(line, `\`+quote) {
				value = strings.ReplaceAll(value, `\`+quote, quote)
				if !lines.Scan() {
					break
				}
				n++
				line = strings.ReplaceAll(lines.Text(), `\`+quote, quote)
				value += "\n" + line
			}
			value = strings.TrimSuffix(strings.TrimPrefix(value, quote), quote)
		}
		if _, set := os.LookupEnv(key); !set {
			if err := os.Setenv(key, value); err != nil {
				return fmt.Errorf("%s: setting %s: %w", path, key, err)
			}
		}
	}
	return lines.Err()
}
