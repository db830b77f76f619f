package operation

import (
	"compress/gzip"
	"encoding/hex"
	"io"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/wx-auth/caddy-wx-auth/tests/rig"
)

// collected receives spans by OTLP over HTTP, as a collector does.
type collected struct {
	addr string

	mu    sync.Mutex
	raw   []byte // all messages, to be searched for leaked texts
	spans []*trace.Span
}

func newCollector(t testing.TB) *collected {
	c := new(collected)
	c.addr = rig.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := io.Reader(r.Body)
		if r.Header.Get("Content-Encoding") == "gzip" {
			unzipped, err := gzip.NewReader(body)
			if err != nil {
				t.Error(err)
				return
			}
			body = unzipped
		}
		raw, _ := io.ReadAll(body)
		var message collector.ExportTraceServiceRequest
		if err := proto.Unmarshal(raw, &message); err != nil {
			t.Errorf("%s: %v", r.URL, err)
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.raw = append(append(c.raw, raw...), '\n')
		for _, resource := range message.ResourceSpans {
			for _, scope := range resource.ScopeSpans {
				c.spans = append(c.spans, scope.Spans...)
			}
		}
	}))
	return c
}

// environ returns the variables with which a Caddy sends its spans here, without delay.
func (c *collected) environ() []string {
	return []string{
		"OTEL_TRACES_EXPORTER=otlp", "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", "OTEL_BSP_SCHEDULE_DELAY=100",
		"OTEL_EXPORTER_OTLP_ENDPOINT=http://" + c.addr,
	}
}

// below returns the spans in the trace of the span root: the name of each, with the name of
// its parent.
func (c *collected) below(root string) map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	names := make(map[string]string)
	i := slices.IndexFunc(c.spans, func(s *trace.Span) bool { return s.Name == root })
	if i < 0 {
		return names
	}
	ids := make(map[string]string)
	for _, s := range c.spans {
		ids[string(s.SpanId)] = s.Name
	}
	for _, s := range c.spans {
		if string(s.TraceId) == string(c.spans[i].TraceId) {
			names[s.Name] = ids[string(s.ParentSpanId)]
		}
	}
	return names
}

func (c *collected) traceID(name string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if s.Name == name {
			return hex.EncodeToString(s.TraceId)
		}
	}
	return ""
}

// Below Caddy's tracing, each step of a login has its own span. The log line has the id of the
// trace.
func TestSpansOfALogin(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	r := &rig.Gateway{WeChat: rig.NewWeChat(t), Upstream: rig.NewUpstream(t)}
	r.Caddy = rig.StartCaddy(t, rig.GatewaySiteWith("tracing {\nspan api\n}"), append(r.WeChat.Environ(r.Upstream.Addr), c.environ()...)...)
	r.Client = r.Caddy.Client()
	h := &rig.Hoard{W: r.WeChat}
	h.Pair(r.MustLogin(t, "13800138000"))

	want := map[string]string{
		"login": "api", "jscode2session": "login", "access_token": "login", "getuserphonenumber": "login", "directory": "login", "session": "login",
		"WeChat jscode2session": "jscode2session", "WeChat access_token": "access_token", "WeChat getuserphonenumber": "getuserphonenumber",
		"committing a login": "session",
	}
	var got map[string]string
	rig.Await(t, 20*time.Second, "all spans arrive", func() bool {
		got = c.below("login")
		_, ended := got["api"]
		return ended && len(got) >= len(want)+1
	})
	for name, parent := range want {
		if got[name] != parent {
			t.Errorf("%s lies in %q, want %q", name, got[name], parent)
		}
	}
	if id := c.traceID("login"); len(r.Caddy.Log.Lines(`"traceID":"`+id+`"`)) == 0 {
		t.Errorf("no log line names the trace %s", id)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	h.Add("13800138000", "+8613800138000")
	h.Search().WantNone(t, "a span", string(c.raw))
}

// A failed call to WeChat is an error in the trace, with its errcode.
func TestSpansOfARefusedLogin(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	r := &rig.Gateway{WeChat: rig.NewWeChat(t), Upstream: rig.NewUpstream(t)}
	r.Caddy = rig.StartCaddy(t, rig.GatewaySiteWith("tracing {\nspan api\n}"), append(r.WeChat.Environ(r.Upstream.Addr), c.environ()...)...)
	r.Caddy.Client().Login("not-a-code-of-wechat", "not-a-phone-code").WantProblem(t, http.StatusBadRequest, "login_code_invalid", []string{"code"})

	rig.Await(t, 20*time.Second, "the spans arrive", func() bool { return c.below("login")["login"] == "api" })
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		switch s.Name {
		case "WeChat jscode2session", "jscode2session", "login":
			if s.Status.GetCode() != trace.Status_STATUS_CODE_ERROR {
				t.Errorf("%s is not an error", s.Name)
			}
		}
		if s.Name == "WeChat jscode2session" && !slices.ContainsFunc(s.Attributes, func(a *common.KeyValue) bool {
			return a.Key == "wechat.errcode" && a.Value.GetIntValue() == 40029
		}) {
			t.Errorf("its attributes: %v", s.Attributes)
		}
	}
	rig.Search{"not-a-co": {"not-a-code-of-wechat"}, "not-a-ph": {"not-a-phone-code"}}.WantNone(t, "a span", string(c.raw))
}

// The backend behind the webhook receives the trace's id, so that its spans belong to the same
// trace.
func TestTraceReachesTheWebhook(t *testing.T) {
	t.Parallel()
	c := newCollector(t)
	var mu sync.Mutex
	var parents []string
	hook := rig.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		parents = append(parents, r.Header.Get("Traceparent"))
		_, _ = io.WriteString(w, `{"id":"m1"}`)
	}))
	r := &rig.Gateway{WeChat: rig.NewWeChat(t), Upstream: rig.NewUpstream(t)}
	r.Caddy = rig.StartCaddy(t, rig.GatewaySiteWith("tracing {\nspan api\n}", "users webhook http://"+hook+"/users {\nsecret whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n}"),
		append(r.WeChat.Environ(r.Upstream.Addr), c.environ()...)...)
	r.Client = r.Caddy.Client()
	r.MustLogin(t, "13800138000")
	rig.Await(t, 20*time.Second, "the spans arrive", func() bool { return c.below("login")["users webhook"] == "directory" })
	mu.Lock()
	defer mu.Unlock()
	id := c.traceID("users webhook")
	if len(parents) != 1 || len(parents[0]) != 55 || parents[0][3:35] != id {
		t.Errorf("traceparent %q of the trace %s", parents, id)
	}
}
