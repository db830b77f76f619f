package wechat

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"net/http"
	"time"

	"github.com/wx-auth/caddy-wx-auth/caddymodule/internal/clock"
)

const (
	busyRetries = 2
	// A kept-alive connection may turn out dead, and the request is then sent on the
	// next one. This may happen twice in a row, because the pool may hold more than one
	// dead connection.
	staleRetries = 2
)

// delivery is one call with all its attempts.
type delivery struct {
	client *Client
	appid  string
	apis   []string // the base URLs, in the order in which to try them
	call   Call
	code   Renew // the one-time code in the request; "" if there is none

	host   string    // the host to which a code was sent; later attempts go there too
	asked  string    // the name of the host that answered
	date   time.Time // WeChat's time in its last answer
	lost   *Error    // the first attempt that was sent but not answered
	busied int       // attempts that were answered with -1
	// took is the duration of a request that was answered well, until observe is called.
	took time.Duration
}

func (c *Client) delivery(app App, call Call, code Renew) *delivery {
	d := &delivery{client: c, appid: app.ID, apis: c.AppAPIs[app.ID], call: call, code: code}
	if len(d.apis) == 0 {
		d.apis = c.APIs
	}
	return d
}

// send sends the request, repeatedly if need be, until there is a good answer or a
// final error. A second call of send, with another access token, goes on counting
// attempts where the first one ended.
func (d *delivery) send(ctx context.Context, o outgoing) (answer, *Error) {
	hosts := d.hosts(o)
	stale := 0
	for {
		a, f := d.try(ctx, hosts[0], o)
		if d.code != "" && (f == nil || f.sent) {
			d.host, hosts = hosts[0], hosts[:1]
		}
		switch {
		// WeChat has answered.
		case f == nil && a.code == 0:
			d.asked = a.host
			return a, nil
		case f == nil && a.code == busy && d.busied < busyRetries:
			d.busied++
			if !clock.Sleep(ctx, d.client.jitter()) {
				return answer{}, contextError(d.call, ctx.Err(), a.host)
			}
		case f == nil:
			return answer{}, d.refused(a)

		// There is no answer, and no further attempt would help.
		case ctx.Err() != nil:
			f.err.Unanswered = f.sent && d.code != "" || d.lost != nil
			return answer{}, f.err
		case d.code != "" && f.edgeRefused():
			// The edge server would refuse the same request again.
			return answer{}, d.edgeRefused(f.err)

		// There is no answer yet: try again, at the same host or at the next one.
		case !f.sent && f.reused && stale < staleRetries:
			stale++
		case d.code != "" && f.sent && d.lost == nil:
			d.lost = f.err
			if f.reused {
				// Other connections in the pool may be just as dead, and only one more
				// attempt is left.
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

// hosts returns the hosts to try, in order. Once a code was sent to a host, this is that host.
func (d *delivery) hosts(o outgoing) []string {
	hosts := []string{o.absolute}
	switch {
	case d.host != "":
		hosts = []string{d.host}
	case o.absolute == "":
		hosts = d.client.Transport.order(d.apis, d.client.Now())
	}
	if d.code == "" && len(hosts) == 1 {
		// A token call uses up no code, so its only host is tried twice.
		hosts = append(hosts, hosts[0])
	}
	return hosts
}

// try makes one request, and reports it unless its answer is good; see observe.
func (d *delivery) try(ctx context.Context, host string, o outgoing) (answer, *failure) {
	start := time.Now()
	a, f := d.client.Transport.exchange(ctx, d.client.Timeout, host, d.call, o)
	d.took = time.Since(start)
	if f == nil {
		d.date = a.date
	}
	switch {
	case f != nil && d.code != "" && f.edgeRefused():
		d.observe(&Error{Call: d.call, Kind: KindRefused, Host: f.err.Host, Status: f.err.Status})
	case f != nil:
		d.observe(f.err)
	case a.code != 0:
		e := businessError(d.call, a.code, a.errmsg)
		e.Host = a.host
		d.observe(e)
	}
	return a, f
}

// observe reports the last request. A good answer is reported only after it has been read,
// because its content may turn out to be unusable.
func (d *delivery) observe(e *Error) {
	if d.client.Observer != nil {
		d.client.Observer.Called(d.appid, d.call, e, d.took)
	}
}

// edgeRefused makes the error of a request that WeChat's edge server refused. The code
// was not used up. Whether another attempt can succeed depends on the reason: the
// request itself, or a momentary state.
func (d *delivery) edgeRefused(e *Error) *Error {
	e.Kind, e.Unanswered = KindRefused, d.lost != nil
	switch e.Status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusRequestURITooLong, http.StatusRequestHeaderFieldsTooLarge:
		e.Renew = []Renew{d.code}
	}
	return e
}

// refused makes an error from an errcode.
func (d *delivery) refused(a answer) *Error {
	e := businessError(d.call, a.code, a.errmsg)
	e.Host = a.host
	if d.lost != nil && calledUsed(d.call, a.code) {
		// Our own first attempt used the code: it did arrive.
		first := *d.lost
		first.Unanswered, first.Renew = true, []Renew{d.code}
		first.Code, first.RID = e.Code, e.RID
		return &first
	}
	return e
}

// nonsense makes the error of an answer that reports success but cannot be used. The
// code has been used up.
func (d *delivery) nonsense(reason string) *Error {
	e := &Error{Call: d.call, Kind: KindBadAnswer, Host: d.asked, reason: reason}
	d.observe(e)
	if d.code != "" {
		e.Renew = []Renew{d.code}
	}
	return e
}

// busyJitter returns 50 to 300 ms, so that logins that met a busy WeChat at the same moment do
// not try again at the same moment.
func busyJitter() time.Duration {
	var b [2]byte
	rand.Read(b[:])
	return 50*time.Millisecond + time.Duration(binary.BigEndian.Uint16(b[:])%250)*time.Millisecond
}
