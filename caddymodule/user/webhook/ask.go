package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/clock"
	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/span"
)

const (
	// maxAnswer bounds the size of an answer, in bytes.
	maxAnswer = 64 << 10
	// tries bounds how often a request is sent if its connection breaks.
	tries = 2
	// pause is the delay between two attempts. It is short, because a backend that is being
	// redeployed is soon back.
	pause = 100 * time.Millisecond
	// maxConnections bounds the open connections to a backend. Further requests wait
	// for a free one.
	maxConnections = 64
	// idle is shorter than the five seconds after which Node closes an idle connection,
	// so that no request is sent on a connection that is being closed.
	idle = 4 * time.Second
)

// NewTransport returns the connections to a backend. They have no settings, and outlive reloads of
// the configuration. NewTransport honours HTTPS_PROXY, HTTP_PROXY and NO_PROXY.
func NewTransport() *http.Transport {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2:      true,
		MaxConnsPerHost:        maxConnections,
		MaxIdleConnsPerHost:    maxConnections,
		IdleConnTimeout:        idle,
		MaxResponseHeaderBytes: maxAnswer,
		DisableCompression:     true,
	}
}

// ask sends a request and reads the answer, all within [Timeout]. If the connection was refused, or
// broke before an answer began, ask sends the request once more with the same webhook-id. That is
// safe, because each request has the same result when it is repeated. A request that was answered,
// or timed out, is not repeated.
func (d *Directory) ask(ctx context.Context, id string, what any) (status int, body []byte, err error) {
	question, err := json.Marshal(what)
	if err != nil {
		return 0, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	for try := 1; ; try++ {
		var answered bool
		status, body, answered, err = d.send(ctx, id, question)
		if err == nil || answered || ctx.Err() != nil || try == tries {
			break
		}
		clock.Sleep(ctx, pause)
	}
	switch {
	case errors.Is(err, errTooLarge):
		return 0, nil, misconfigured("its answer is %w", err)
	case ctx.Err() != nil && err != nil:
		return 0, nil, fmt.Errorf("the users' webhook did not answer in %s: %w", Timeout, ctx.Err())
	case err != nil:
		return 0, nil, fmt.Errorf("asking the users' webhook: %w", err)
	}
	return status, body, nil
}

// send makes one attempt. answered reports whether the backend began to answer.
func (d *Directory) send(ctx context.Context, id string, question []byte) (status int, body []byte, answered bool, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, d.URL, bytes.NewReader(question))
	if err != nil { // err is not wrapped, because it contains the URL, and the URL may contain a key
		return 0, nil, true, errors.New("its URL cannot be used")
	}
	now := time.Now()
	if d.Now != nil {
		now = d.Now()
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", "caddy-wx-auth")
	r.Header.Set("Webhook-Id", id)
	r.Header.Set("Webhook-Timestamp", strconv.FormatInt(now.Unix(), 10))
	r.Header.Set("Webhook-Signature", signatures(d.Secrets, id, now, question))
	ctx, s := span.StartCall(ctx, "users webhook", r.URL.Host)
	span.Inject(ctx, r.Header)
	defer func() { s.SetInt("http.response.status_code", status); s.End(err != nil) }()
	// The Transport is called directly. An http.Client would follow redirects, keep cookies, and
	// move a user name from the URL to a header.
	resp, err := d.Transport.RoundTrip(r)
	if err != nil {
		return 0, nil, false, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(body) > maxAnswer {
		err = errTooLarge
	}
	return resp.StatusCode, body, true, err
}
