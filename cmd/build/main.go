// Command build builds the Caddy that xcaddy.json describes, with this working tree as
// the plugin's source:
//
//	go run ./cmd/build -o caddy
//
// It runs a pinned xcaddy with `go run`, so that xcaddy is a dependency of no go.mod.
// Flags and build tags are xcaddy's defaults. Environment variables for xcaddy
// (XCADDY_GO_BUILD_FLAGS, XCADDY_RACE_DETECTOR, …) take effect.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// xcaddy is the package to run. The command line that arguments returns is written for
// this version.
const xcaddy = "github.com/caddyserver/xcaddy/cmd/xcaddy@v0.4.5"

func main() {
	output := flag.String("o", "caddy", "the `file` to write")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, flag.Args(), *output); err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, rest []string, output string) error {
	if len(rest) > 0 {
		return fmt.Errorf("unexpected argument %q: the only flag is -o <file>", rest[0])
	}
	if output == "" {
		return errors.New("-o needs a file name")
	}
	output, err := filepath.Abs(output)
	if err != nil {
		return fmt.Errorf("-o: %w", err)
	}
	if info, err := os.Stat(output); err == nil && info.IsDir() {
		return fmt.Errorf("-o: %s is a directory", output)
	}
	tree, err := workingTree(ctx)
	if err != nil {
		return err
	}
	b, err := readBuilder(filepath.Join(tree.Dir, "xcaddy.json"))
	if err != nil {
		return err
	}

	empty, err := os.MkdirTemp("", "caddy-wx-auth-build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(empty)
	if err := os.WriteFile(filepath.Join(empty, "go.mod"), []byte("module empty\n"), 0o644); err != nil {
		return err
	}

	cmd := exec.CommandContext(ctx, "go", append([]string{"run", xcaddy}, b.arguments(tree, empty, output)...)...)
	cmd.Dir = tree.Dir
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	// xcaddy removes its temporary folder after an interrupt, but not if it is killed.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", xcaddy, err)
	}
	return nil
}

// module is a Go module and the directory of its source.
type module struct{ Path, Dir string }

// workingTree returns the module of the current directory, according to the go command.
func workingTree(ctx context.Context) (module, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Path}}\t{{.Dir}}")
	cmd.Env = append(os.Environ(), "GOWORK=off")
	out, err := cmd.Output()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return module{}, fmt.Errorf("finding the module of this directory: %s", strings.TrimSpace(string(exit.Stderr)))
	}
	if err != nil {
		return module{}, fmt.Errorf("finding the module of this directory: %w", err)
	}
	path, dir, _ := strings.Cut(strings.TrimSpace(string(out)), "\t")
	if dir == "" {
		return module{}, errors.New("not inside a Go module: run this in the plugin's working tree")
	}
	return module{Path: path, Dir: dir}, nil
}
