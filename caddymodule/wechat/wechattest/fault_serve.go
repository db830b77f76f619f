package wechattest

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	oversizedBody = 10 << 20
	// An endless body is sent fast at first, to reveal a client that reads without a
	// bound. Then it trickles, to reveal a client that waits without a bound, and to
	// spare the machine.
	endlessFast = 64 << 20
	endlessTick = 50 * time.Millisecond

	edgePage = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
	htmlPage = "<!DOCTYPE html>\n<html><head><meta charset=\"utf-8\"><title>Login to the network</title></head><body><p>{\"errcode\":0}</p></body></html>\n"
)

// serveFault answers a call that a fault strikes. carry carries the call out; it is
// called at most once.
func (s *Simulator) serveFault(w http.ResponseWriter, r *http.Request, req *request, f *Fault, carry func() reply) {
	if f.Kind == Delay && !f.Late {
		if !f.wait(r.Context()) {
			s.ended(req.call, "gone")
			return
		}
		answer := carry()
		s.ended(req.call, answer.outcome)
		answer.write(w)
		return
	}
	answer, outcome := reply{contentType: typeJSON, body: []byte(`{"errcode":0,"errmsg":"ok"}`)}, string(f.Kind)
	if f.Late {
		answer = carry()
		outcome += " late"
		if f.Kind != Delay && f.Kind != Dirty {
			s.lost(answer)
		}
	}
	s.ended(req.call, outcome)
	if !f.wait(r.Context()) {
		s.lost(answer)
		return
	}
	s.applyFault(w, r, req, f, answer)
}

// lost records that the answer's phone code was exchanged but not delivered.
func (s *Simulator) lost(answer reply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if answer.phone != nil {
		answer.phone.Lost = true
	}
}

// wait waits for the fault's delay and hold. It reports whether the client is still connected
// afterwards.
func (f *Fault) wait(client context.Context) bool {
	if f.Delay > 0 {
		timer := time.NewTimer(f.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-client.Done():
		}
	}
	if f.Hold != nil {
		select {
		case <-f.Hold:
		case <-client.Done():
		}
	}
	return client.Err() == nil
}

func (s *Simulator) applyFault(w http.ResponseWriter, r *http.Request, req *request, f *Fault, answer reply) {
	switch f.Kind {
	case Delay:
		answer.write(w)
	case Reset:
		hangUp(w, true)
	case Close:
		hangUp(w, false)
	case Status:
		writeEdge(w, orDefault(f.Status, http.StatusBadGateway))
	case HTML:
		reply{contentType: "text/html; charset=utf-8", body: []byte(htmlPage)}.write(w)
	case Empty:
		reply{contentType: typeText}.write(w)
	case Truncated:
		answer.body = answer.body[:len(answer.body)/2]
		answer.write(w)
	case Cut:
		w.Header().Set("Content-Type", answer.contentType)
		w.Header().Set("Content-Length", strconv.Itoa(len(answer.body)))
		w.Write(answer.body[:len(answer.body)/2])
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	case Dirty:
		// As observed: a byte-order mark in front, and stray control characters around
		// the body.
		answer.body = bytes.Join([][]byte{[]byte("\ufeff\x00"), answer.body, []byte("\x1f\x00\r\n")}, nil)
		answer.write(w)
	case Oversized:
		// The body is valid to its last byte, so that only a bound can refuse it.
		answer.body = append(answer.body[:len(answer.body):len(answer.body)], bytes.Repeat([]byte(" "), oversizedBody)...)
		answer.write(w)
	case Endless:
		endless(w, r.Context())
	case Redirect:
		location := f.Location
		if location == "" {
			location = "/redirected"
		}
		w.Header().Set("Location", location)
		w.WriteHeader(orDefault(f.Status, http.StatusFound))
	case Errcode:
		s.errcodeOf(req, f).write(w)
	}
}

// errcodeOf returns the answer of an Errcode fault.
func (s *Simulator) errcodeOf(req *request, f *Fault) reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.Errmsg != "" {
		return s.failWith(req, nil, f.Errcode, f.Errmsg)
	}
	return s.fail(req, nil, f.Errcode)
}

// hangUp ends the connection without an answer. Over HTTP/2 the connection cannot be
// taken over, so the stream is reset.
func hangUp(w http.ResponseWriter, reset bool) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer conn.Close()
	raw := conn
	if over, ok := raw.(interface{ NetConn() net.Conn }); ok { // TLS
		raw = over.NetConn()
	}
	if tcp, ok := raw.(*net.TCPConn); ok && reset {
		tcp.SetLinger(0) // makes Close send RST
	}
}

func endless(w http.ResponseWriter, client context.Context) {
	flush := http.NewResponseController(w).Flush
	w.Header().Set("Content-Type", typeJSON)
	if _, err := w.Write([]byte(`{"errcode":0,"errmsg":"`)); err != nil {
		return
	}
	piece := []byte(strings.Repeat("o", 32<<10))
	for sent := 0; client.Err() == nil; sent += len(piece) {
		if sent >= endlessFast {
			piece = piece[:1]
			select {
			case <-client.Done():
			case <-time.After(endlessTick):
			}
		}
		if _, err := w.Write(piece); err != nil {
			return
		}
		if err := flush(); err != nil {
			return
		}
	}
}

func orDefault(status, fallback int) int {
	if status == 0 {
		return fallback
	}
	return status
}
