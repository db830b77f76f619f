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
)

const (
	// maxAnswer bounds an answer, in bytes.
	maxAnswer = 64 << 10
	// tries is how often a request is sent whose connection broke.
	tries = 2
	// pause is between them: a backend that is being replaced is back soon.
	pause = 100 * time.Millisecond
	// maxConnections bounds what is open to a backend; who finds all of them busy
	// waits.
	maxConnections = 64
	// idle is less than the five seconds after which Node closes an idle
	// connection, which a request must not meet.
	idle = 4 * time.Second
)

// NewTransport returns what outlives configurations: the connections, and no
// settings. It honours HTTPS_PROXY, HTTP_PROXY and NO_PROXY.
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

// ask sends a request and reads the answer, all within [Timeout]. One whose
// connection was refused, or broke before there was an answer, is sent once more:
// with the same webhook-id, and what is asked for (find, or else make) comes to
// the same. What was answered, and what took too long, is not.
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
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
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

// send is one try. answered reports whether the backend began to answer.
func (d *Directory) send(ctx context.Context, id string, question []byte) (status int, body []byte, answered bool, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, d.URL, bytes.NewReader(question))
	if err != nil { // which would hold the URL, and a key perhaps
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
	// Not a Client: it follows redirects, keeps cookies and takes a user name out
	// of the URL.
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
