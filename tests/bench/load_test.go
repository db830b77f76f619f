//go:build linux

package bench

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// load sends requests over a number of kept-alive connections. net/http's client would
// need more processor time than the proxy does.
type load struct {
	clients  int
	requests int
	request  func(i int) []byte // the bytes of request i
	status   int                // expected status of each answer
	every    time.Duration      // interval between a client's requests; 0: as soon as it has its answer
}

// measured is the result of a load.
type measured struct {
	perRequest time.Duration // processor time of the proxy's process
	perSecond  float64
	p50, p99   time.Duration
}

func (l load) run(t testing.TB, c *rig.Caddy) measured {
	t.Helper()
	conns := l.dial(t, c)
	defer hangUp(conns)
	cpu, start := processorTime(t, c.PID()), time.Now()
	all, err := l.drive(conns, nil)
	wall, used := time.Since(start), processorTime(t, c.PID())-cpu
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	n := time.Duration(l.requests)
	return measured{
		perRequest: used / n, perSecond: float64(l.requests) / wall.Seconds(),
		p50: all[len(all)/2], p99: all[len(all)*99/100],
	}
}

// dial opens the load's connections.
func (l load) dial(t testing.TB, c *rig.Caddy) []net.Conn {
	t.Helper()
	conns := make([]net.Conn, l.clients)
	for i := range conns {
		conn, err := net.Dial("tcp", c.Addr)
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = conn
	}
	return conns
}

func hangUp(conns []net.Conn) {
	for _, conn := range conns {
		conn.Close()
	}
}

// drive sends the requests, or as many as it can until stop is closed, and returns how
// long each took.
func (l load) drive(conns []net.Conn, stop <-chan struct{}) ([]time.Duration, error) {
	var next atomic.Int64
	var workers sync.WaitGroup
	took := make([][]time.Duration, l.clients)
	errs := make([]error, l.clients)
	start := time.Now()
	for w, conn := range conns {
		workers.Go(func() {
			r := bufio.NewReader(conn)
			due := start.Add(l.every * time.Duration(w) / time.Duration(l.clients))
			for i := next.Add(1) - 1; i < int64(l.requests); i = next.Add(1) - 1 {
				select {
				case <-stop:
					return
				default:
				}
				request, sent := l.request(int(i)), time.Now()
				if l.every > 0 {
					if wait := due.Sub(sent); wait > 0 {
						time.Sleep(wait)
						sent = time.Now()
					} else {
						sent = due // the time at which it was due, although it had to wait for the previous answer
					}
					due = due.Add(l.every)
				}
				if errs[w] = exchange(conn, r, request, l.status); errs[w] != nil {
					return
				}
				took[w] = append(took[w], time.Since(sent))
			}
		})
	}
	workers.Wait()
	return slices.Concat(took...), errors.Join(errs...)
}

// exchange sends a request and reads its answer, which must have a length.
func exchange(conn net.Conn, r *bufio.Reader, request []byte, status int) error {
	if _, err := conn.Write(request); err != nil {
		return err
	}
	line, err := r.ReadSlice('\n')
	if err != nil {
		return err
	}
	if len(line) < 12 || string(line[9:12]) != strconv.Itoa(status) {
		rest, _ := r.Peek(r.Buffered())
		return fmt.Errorf("want %d: %s%s", status, line, rest)
	}
	length := 0
	for {
		if line, err = r.ReadSlice('\n'); err != nil {
			return err
		}
		if len(line) <= 2 {
			if length == 0 { // Caddy answers like this for a host that it does not know
				return errors.New("an answer without a body")
			}
			_, err = r.Discard(length)
			return err
		}
		if value, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return err
			}
		}
	}
}

// get returns an ordinary request of a mini program.
func get(path, token string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: Mozilla/5.0 (iPhone) MicroMessenger/8.0.50\r\nAccept: */*\r\n"+
		"Accept-Encoding: gzip, deflate, br\r\nContent-Type: application/json\r\nReferer: https://servicewechat.com/%s/12/page-frame.html\r\n",
		path, rig.AppID)
	if token != "" {
		fmt.Fprintf(&b, "Authorization: Bearer %s\r\n", token)
	}
	b.WriteString("\r\n")
	return b.Bytes()
}
