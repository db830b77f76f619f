package wechat

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"net/http"
	"time"
)

const (
	busyRetries = 2
	// A kept-alive connection may be dead already; the next one is asked for then.
	// Two in a row: the pool may hold more than one of them.
	staleRetries = 2
)

// delivery is one call on its way, through all its tries.
type delivery struct {
	client *Client
	apis   []string // the base URLs, in the order to try them
	call   Call
	code   Renew // the one-time code that the request carries; "" none

	host   string // where a code was sent, which it then stays with
	asked  string // the name of the host that answered
	lost   *Error // the first try that was sent and not answered
	busied int    // tries answered with -1
}

func (c *Client) delivery(app App, call Call, code Renew) *delivery {
	d := &delivery{client: c, apis: c.AppAPIs[app.ID], call: call, code: code}
	if len(d.apis) == 0 {
		d.apis = c.APIs
	}
	return d
}

// send sends the request until there is an answer that is no error, or an error
// that is to stay. A second send, with another access token, goes on counting
// where the first one ended.
func (d *delivery) send(ctx context.Context, o outgoing) (answer, *Error) {
	hosts := []string{o.absolute}
	if o.absolute == "" {
		hosts = d.client.Transport.order(d.apis, d.client.Now())
	}
	if d.host != "" {
		hosts = []string{d.host}
	}
	if d.code == "" && len(hosts) == 1 {
		// Nothing is spent by asking for a token, so one accident is forgiven.
		hosts = append(hosts, hosts[0])
	}
	stale := 0
	for {
		a, f := d.client.Transport.exchange(ctx, d.client.Timeout, hosts[0], d.call, o)
		if d.code != "" && (f == nil || f.sent) {
			d.host, hosts = hosts[0], hosts[:1]
		}
		switch {
		case f == nil && a.code == 0:
			d.asked = a.host
			return a, nil
		case f == nil && a.code == busy && d.busied < busyRetries:
			d.busied++
			if err := wait(ctx, d.client.jitter()); err != nil {
				return answer{}, contextError(d.call, err, a.host)
			}
		case f == nil:
			return answer{}, d.refused(a)
		case ctx.Err() != nil:
			f.err.Unanswered = f.sent && d.code != "" || d.lost != nil
			return answer{}, f.err
		case d.code != "" && f.edgeRefused():
			// The same request would be refused again.
			return answer{}, d.edgeRefused(f.err)
		case !f.sent && f.reused && stale < staleRetries:
			stale++
		case d.code != "" && f.sent && d.lost == nil:
			d.lost = f.err
			if f.reused {
				// Others in the pool may be as dead as this one, and there is only one more try.
				d.client.Transport.Close()
			}
		case d.lost != nil:
			d.lost.Unanswered = true
			return answer{}, d.lost
		case len(hosts) > 1:
			if o.absolute == "" {
				d.client.Transport.rest(hosts[0], d.client.Now())
			}
			hosts = hosts[1:]
		default:
			return answer{}, f.err
		}
	}
}

// edgeRefused makes the error of a request that did not get past WeChat's edge. The
// code is as good as before; whether it is worth another try depends on what the
// edge did not like: the request, or this moment.
func (d *delivery) edgeRefused(e *Error) *Error {
	e.Kind, e.Unanswered = KindRefused, d.lost != nil
	switch e.Status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusRequestURITooLong, http.StatusRequestHeaderFieldsTooLarge:
		e.Renew = []Renew{d.code}
	}
	return e
}

// refused makes the error of an errcode.
func (d *delivery) refused(a answer) *Error {
	e := businessError(d.call, a.code, a.errmsg)
	e.Host = a.host
	if d.lost != nil && calledUsed(d.call, a.code) {
		// It was us who used it: the first try had arrived.
		first := *d.lost
		first.Unanswered, first.Renew = true, []Renew{d.code}
		first.Code, first.RID = e.Code, e.RID
		return &first
	}
	return e
}

// nonsense is the error of an answer that says "done" and is of no use. The
// code is spent.
func (d *delivery) nonsense(reason string) *Error {
	e := &Error{Call: d.call, Kind: KindBadAnswer, Host: d.asked, reason: reason}
	if d.code != "" {
		e.Renew = []Renew{d.code}
	}
	return e
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// busyJitter is between 50 and 300 ms, so that logins that met a busy WeChat
// together do not come back together.
func busyJitter() time.Duration {
	var b [2]byte
	rand.Read(b[:])
	return 50*time.Millisecond + time.Duration(binary.BigEndian.Uint16(b[:])%250)*time.Millisecond
}
