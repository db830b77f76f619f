package wechattest

import (
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
)

// maxRequest bounds how much of a request is read. WeChat's calls are much smaller.
const maxRequest = 64 << 10

// endpoint describes how a call is made.
type endpoint struct {
	call   Call
	method string
	carry  func(*Simulator, *request) reply
}

var endpoints = map[string]endpoint{
	"/sns/jscode2session":              {Code2Session, http.MethodGet, (*Simulator).code2Session},
	"/cgi-bin/stable_token":            {StableToken, http.MethodPost, (*Simulator).stable},
	"/cgi-bin/token":                   {ClassicToken, http.MethodGet, (*Simulator).classic},
	"/wxa/business/getuserphonenumber": {PhoneNumber, http.MethodPost, (*Simulator).phoneNumber},
	"/central/token":                   {CentralToken, http.MethodGet, (*Simulator).central},
	"/redirected":                      {Redirected, "", (*Simulator).redirected},
}

// request is an HTTP request in the form in which the calls use it.
type request struct {
	call   Call
	method string // the method that the call requires; "" means any
	got    string // the method of this request
	query  string
	body   []byte
	remote netip.Addr
}

// ServeHTTP answers WeChat's calls, and the control API under /_control/.
func (s *Simulator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/_control/") {
		s.control.ServeHTTP(w, r)
		return
	}
	end, known := endpoints[r.URL.EscapedPath()]
	if !known {
		end = endpoint{Elsewhere, "", (*Simulator).elsewhere}
	}
	s.arrived(end.call)
	if limit := s.edgeLimit(); limit > 0 && len(r.Method)+len(r.RequestURI)+len(r.Proto)+2 > limit {
		s.ended(end.call, "414")
		writeEdge(w, http.StatusRequestURITooLong)
		return
	}
	// WeChat's edge server requires a Content-Length, and otherwise answers 412 without a
	// body.
	if r.ContentLength < 0 {
		s.ended(end.call, "412")
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(http.StatusPreconditionFailed)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		outcome := "gone"
		if tooBig := (*http.MaxBytesError)(nil); errors.As(err, &tooBig) {
			outcome = "413"
		}
		s.ended(end.call, outcome)
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	}
	remote, _ := netip.ParseAddrPort(r.RemoteAddr)
	req := &request{
		call: end.call, method: end.method, got: r.Method, query: r.URL.RawQuery, body: body,
		remote: remote.Addr().Unmap(),
	}
	carry := func() reply {
		s.mu.Lock()
		defer s.mu.Unlock()
		return end.carry(s, req)
	}
	if fault := s.takeFault(req); fault != nil {
		s.serveFault(w, r, req, fault, carry)
		return
	}
	answer := carry()
	s.ended(end.call, answer.outcome)
	answer.write(w)
}

// reply is a complete answer.
type reply struct {
	contentType string
	body        []byte
	outcome     string     // key in [Count]
	phone       *PhoneCode // the phone code that was exchanged for this answer
}

func (a reply) write(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", a.contentType)
	h.Set("Content-Length", strconv.Itoa(len(a.body)))
	w.WriteHeader(http.StatusOK)
	w.Write(a.body)
}
