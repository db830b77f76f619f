package conn

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

var errRevoked = errors.New("the session has ended")

// watchdog is a keeper that remembers the connection it watches.
type watchdog struct {
	connection interface{ End(error) }
	watched    int
	released   int
}

func (k *watchdog) Watch(c interface{ End(error) }) Watched {
	k.connection = c
	k.watched++
	return k
}

func (k *watchdog) Release() { k.released++ }

func (k *watchdog) Answer(h http.Header) { h.Del("Sec-WebSocket-Protocol") }

// serverSide is a server's writer whose connection can be taken over, or whose stream can be
// ended.
type serverSide struct {
	*httptest.ResponseRecorder
	conn net.Conn
	past int // deadlines in the past
}

func (s *serverSide) Hijack() (net.Conn, *bufio.ReadWriter, error) { return s.conn, nil, nil }

func (s *serverSide) SetReadDeadline(at time.Time) error {
	if at.Before(time.Now()) {
		s.past++
	}
	return nil
}

func (s *serverSide) SetWriteDeadline(at time.Time) error { return s.SetReadDeadline(at) }

func upgradeRequest() *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/ws", nil)
	r.Header.Set("Upgrade", "websocket")
	return r
}

// A proxy has taken a WebSocket over and waits for a client that is silent. When the session ends,
// the connection itself is closed, and the proxy learns why from its context.
func TestTakenConnectionIsEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		k, w := &watchdog{}, &serverSide{ResponseRecorder: httptest.NewRecorder(), conn: server}
		go func() {
			synctest.Wait() // until the proxy waits
			k.connection.End(errRevoked)
		}()
		err := ServeUpgrade(w, upgradeRequest(), k, func(w http.ResponseWriter, r *http.Request) error {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return err
			}
			if _, err := conn.Read(make([]byte, 1)); err == nil {
				t.Error("something was read")
			}
			if cause := context.Cause(r.Context()); cause != errRevoked {
				t.Errorf("the context ended for %v", cause)
			}
			if k.released != 0 {
				t.Error("it is not watched to its end")
			}
			return nil
		})
		if _, read := client.Read(make([]byte, 1)); err != nil || read != io.EOF || k.watched != 1 || k.released != 1 {
			t.Errorf("%v, the client reads %v, watched %d times, released %d times", err, read, k.watched, k.released)
		}
	})
}

// Java's client asks for an upgrade to h2c in every request. As nobody takes the connection over,
// the request is served like any other, whatever happens to the session. The answer names no
// credential.
func TestRequestForAnUpgradeIsNotWatched(t *testing.T) {
	k, w := &watchdog{}, &serverSide{ResponseRecorder: httptest.NewRecorder()}
	err := ServeUpgrade(w, upgradeRequest(), k, func(w http.ResponseWriter, _ *http.Request) error {
		w.Header().Set("Sec-WebSocket-Protocol", "bearer, a.token")
		w.WriteHeader(http.StatusAccepted)
		_, err := io.WriteString(w, "served")
		return err
	})
	if err != nil || k.watched != 0 || w.Code != http.StatusAccepted || w.Body.String() != "served" || w.Header().Get("Sec-WebSocket-Protocol") != "" {
		t.Errorf("%v, watched %d times, %d %q %v", err, k.watched, w.Code, w.Body, w.Header())
	}
}

// Over HTTP/2 the stream is the connection: it is watched from the beginning, and ends by deadlines
// in both directions. A session that ends at the same moment as the handler must not touch the
// server's writer any more, which may serve another request by then.
func TestStreamIsEndedOnlyWhileItIsServed(t *testing.T) {
	for name, c := range map[string]struct {
		during bool
		want   int
	}{"during the request": {true, 2}, "after it": {false, 0}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k, w := &watchdog{}, &serverSide{ResponseRecorder: httptest.NewRecorder()}
				r := httptest.NewRequest(http.MethodConnect, "/ws", nil)
				err := ServeUpgrade(writer{w}, r, k, func(http.ResponseWriter, *http.Request) error {
					if c.during {
						k.connection.End(errRevoked)
						synctest.Wait()
					}
					return nil
				})
				if !c.during {
					k.connection.End(errRevoked)
					synctest.Wait()
				}
				if err != nil || k.watched != 1 || k.released != 1 || w.past != c.want {
					t.Errorf("%v, watched %d times, released %d times, %d deadlines in the past, want %d", err, k.watched, k.released, w.past, c.want)
				}
			})
		})
	}
}
