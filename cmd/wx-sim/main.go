// Command wx-sim simulates WeChat for development: it runs the simulator of package wechattest
// as a program, with a control page for people and a control API for scripts. See README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// saveEvery is the interval at which the state is saved, in case the process is killed.
// It is also saved at the end.
const saveEvery = 10 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "wx-sim:", err)
		os.Exit(1)
	}
}

// run serves until the context ends.
func run(ctx context.Context, args []string, out io.Writer) error {
	set, err := parse(args, out)
	if err != nil {
		return err
	}
	s, err := newServer(set)
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", set.listen)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "WeChat's API and the control page: http://%s\n", ln.Addr())
	for _, app := range set.Apps {
		fmt.Fprintf(out, "  WX_APPID=%s WX_SECRET=%s WX_API=http://%s\n", app.ID, app.Secret, ln.Addr())
	}
	srv := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		for tick := time.Tick(saveEvery); ; {
			select {
			case <-ctx.Done():
				_ = srv.Close()
				return
			case <-tick:
				if err := s.save(); err != nil {
					fmt.Fprintln(out, "the state is not saved:", err)
				}
			}
		}
	}()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return s.save()
}
