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
	// pause is the delay between two attempts: a backend that is being redeployed is
	// back soon.
	pause = 100 * time.Millisecond
	// maxConnections bounds the open connections to a backend. Further requests wait
	// for a free one.
	maxConnections = 64
	// idle is shorter than the five seconds after which Node closes an idle connection,
	// so that no request is sent on a connection that is being closed.
	idle = 4 * time.Second
)

// NewTransport returns the part that outlives reloads of the configuration: the
// connections, without settings. It honours HTTPS_PROXY, HTTP_PROXY and NO_PROXY.
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

// ask sends a request and reads the answer, all within [Timeout]. If the connection was
// refused, or broke before an answer began, the request is sent once more with the same
// webhook-id; repeating it is safe, because finding or else creating a user gives the
// same result. A request that was answered, or timed out, is not repeated.
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
	if err != nil { // not wrapped: it contains the URL, which may contain a key
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
	// An http.Client is not used, because it follows redirects, keeps cookies and takes
	// a user name out of the URL.
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
