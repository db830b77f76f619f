package requests

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// message2 is a request over HTTP/2. Its fields begin with the pseudo-header fields.
type message2 struct {
	fields   []field
	data     []string // one DATA frame each; trailers, if any, end the stream
	trailers []field
	unended  bool // the stream stays open, as if more were to come
}

// patience returns how long an answer may take.
func (m message2) patience() time.Duration {
	if m.unended {
		return 3 * rig.RawTime
	}
	return rig.RawTime
}

// get2 returns the first fields of a request.
func get2(addr, method, target string, fields ...field) []field {
	return append([]field{{":method", method}, {":scheme", "http"}, {":authority", addr}, {":path", target}}, fields...)
}

// errEnded means that a stream ended without an answer.
var errEnded = errors.New("the stream was ended")

// raw2 sends a request over a new connection: with prior knowledge, or over TLS with
// the given configuration. If the stream or the connection was ended instead, the
// answer has no status and Err says so.
func raw2(addr string, config *tls.Config, m message2) rig.Answer {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return rig.Answer{Err: err}
	}
	defer conn.Close()
	if config != nil {
		conn = tls.Client(conn, config)
	}
	_ = conn.SetDeadline(time.Now().Add(m.patience()))
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return rig.Answer{Err: err}
	}
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_ = framer.WriteSettings()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	encoded := func(fields []field) []byte {
		block.Reset()
		for _, f := range fields {
			_ = enc.WriteField(hpack.HeaderField{Name: f.name, Value: f.value})
		}
		return bytes.Clone(block.Bytes())
	}
	headers := func(fields []field, last bool) {
		b := encoded(fields)
		const most = 16 << 10
		first := b[:min(len(b), most)]
		b = b[len(first):]
		_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: first, EndHeaders: len(b) == 0, EndStream: last})
		for len(b) > 0 {
			part := b[:min(len(b), most)]
			b = b[len(part):]
			_ = framer.WriteContinuation(1, len(b) == 0, part)
		}
	}
	headers(m.fields, len(m.data) == 0 && m.trailers == nil && !m.unended)
	for i, d := range m.data {
		_ = framer.WriteData(1, i == len(m.data)-1 && m.trailers == nil && !m.unended, []byte(d))
	}
	if m.trailers != nil {
		headers(m.trailers, true)
	}
	a := rig.Answer{Header: http.Header{}}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			a.Err = err
			return a
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			for _, f := range frame.Fields {
				if f.Name == ":status" {
					a.Status, _ = strconv.Atoi(f.Value)
				} else {
					a.Header.Add(f.Name, f.Value)
				}
			}
		case *http2.DataFrame:
			a.Body += string(frame.Data())
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				_ = framer.WriteSettingsAck()
			}
		case *http2.RSTStreamFrame:
			if a.Status == 0 {
				a.Err = fmt.Errorf("%w: %s", errEnded, frame.ErrCode)
			}
			return a
		case *http2.GoAwayFrame:
			if a.Status == 0 {
				a.Err = fmt.Errorf("%w, with its connection: %s", errEnded, frame.ErrCode)
			}
			return a
		}
		if h := frame.Header(); h.StreamID == 1 && (h.Type == http2.FrameHeaders || h.Type == http2.FrameData) && h.Flags.Has(http2.FlagDataEndStream) {
			return a
		}
	}
}
