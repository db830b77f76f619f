package caddymodule

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// placeholder finds what could be one.
var placeholder = regexp.MustCompile(`\{[^{}\s]*\}`)

// lookup replaces the placeholders of a value. known is false where the value
// depends on the machine that will serve, and this is not the time to look.
type lookup func(raw string, of syntax) (value string, known bool, err error)

// syntax says what braces mean in a value that may contain placeholders.
type syntax struct {
	// lax: other braces than those of the two placeholders are the value's own,
	// as in a JWK.
	lax bool
	// own is a name in braces that means something to who uses the value.
	own string
}

// inCaddyfile is the lookup for adapting: a Caddyfile may be adapted on another
// machine than the one that serves, so values with placeholders are not known.
func inCaddyfile(raw string, of syntax) (string, bool, error) {
	found, err := of.placeholders(raw)
	return raw, len(found) == 0, err
}

// atProvision is the lookup for loading a configuration.
func atProvision(raw string, of syntax) (string, bool, error) {
	found, err := of.placeholders(raw)
	if err != nil || len(found) == 0 {
		return raw, true, err
	}
	var out strings.Builder
	last, repl := 0, caddy.NewReplacer()
	for _, at := range found {
		key := raw[at[0]+1 : at[1]-1]
		// Each by itself: between them every byte stays as it is written.
		value, err := repl.ReplaceOrErr("{"+key+"}", true, true)
		if err != nil || strings.TrimSpace(value) == "" {
			return "", false, emptyPlaceholder(key)
		}
		out.WriteString(raw[last:at[0]])
		out.WriteString(value)
		last = at[1]
	}
	out.WriteString(raw[last:])
	return out.String(), true, nil
}

func emptyPlaceholder(key string) error {
	if name, ok := strings.CutPrefix(key, "env."); ok {
		return fmt.Errorf("{%s} is empty: set the environment variable %s for the process that runs Caddy", key, name)
	}
	return fmt.Errorf("{%s} is empty: the file must exist, hold the value, and be readable by the user that runs Caddy", key)
}

// placeholders finds those of a value, and refuses what looks like one and is
// none: it would be taken for the value itself.
func (s syntax) placeholders(raw string) ([][]int, error) {
	var found [][]int
	for _, at := range placeholder.FindAllStringIndex(raw, -1) {
		key := raw[at[0]+1 : at[1]-1]
		env, isEnv := strings.CutPrefix(key, "env.")
		file, isFile := strings.CutPrefix(key, "file.")
		switch {
		case isEnv && env != "":
			found = append(found, at)
		case isFile && filepath.IsAbs(file):
			found = append(found, at)
		case isFile:
			return nil, fmt.Errorf("{%s}: the path of a file must be absolute: {file./run/secrets/name}", key)
		case s.own != "" && key == s.own:
		case s.lax && (len(raw) != at[1]-at[0] || strings.Contains(key, `"`)):
		default:
			return nil, fmt.Errorf("{%s} cannot be used here: use {env.NAME} or {file./absolute/path}", key)
		}
	}
	if !s.lax && strings.ContainsAny(placeholder.ReplaceAllString(raw, ""), "{}") {
		return nil, errors.New("a brace is left over: placeholders are written {env.NAME} or {file./absolute/path}")
	}
	return found, nil
}

// noPlaceholder refuses a placeholder where the value must be known when the
// configuration is read.
func noPlaceholder(value string) error {
	if p := placeholder.FindString(value); p != "" {
		remedy := "write the value itself"
		if name, ok := strings.CutPrefix(strings.Trim(p, "{}"), "env."); ok {
			remedy = "in a Caddyfile write {$" + name + "}, which is replaced when it is read"
		}
		return fmt.Errorf("%s cannot be used here: %s", p, remedy)
	}
	return nil
}
