package span

import (
	"context"
	"net/http"
	"slices"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// recorder is a provider that keeps the spans of its tracers.
type recorder struct {
	noop.TracerProvider
	spans []*recorded
}

// recorded is a span that keeps what is said about it.
type recorded struct {
	noop.Span
	from       *recorder
	context    trace.SpanContext
	parent     trace.SpanID
	name       string
	kind       trace.SpanKind
	attributes []attribute.KeyValue
	code       codes.Code
	text       string
	ended      bool
}

func (r *recorder) Tracer(string, ...trace.TracerOption) trace.Tracer {
	return tracer{to: r}
}

// tracer begins spans of a recorder.
type tracer struct {
	noop.Tracer
	to *recorder
}

func (t tracer) Start(ctx context.Context, name string, opts ...trace.SpanStartOption) (context.Context, trace.Span) {
	parent, config := trace.SpanContextFromContext(ctx), trace.NewSpanStartConfig(opts...)
	s := &recorded{
		from: t.to, name: name, kind: config.SpanKind(), parent: parent.SpanID(),
		context: trace.NewSpanContext(trace.SpanContextConfig{
			TraceID: parent.TraceID(), SpanID: trace.SpanID{byte(len(t.to.spans) + 2)}, TraceFlags: parent.TraceFlags(),
		}),
	}
	t.to.spans = append(t.to.spans, s)
	return trace.ContextWithSpan(ctx, s), s
}

func (s *recorded) SpanContext() trace.SpanContext       { return s.context }
func (s *recorded) TracerProvider() trace.TracerProvider { return s.from }
func (s *recorded) SetAttributes(kv ...attribute.KeyValue) {
	s.attributes = append(s.attributes, kv...)
}
func (s *recorded) SetStatus(code codes.Code, text string) { s.code, s.text = code, text }
func (s *recorded) End(...trace.SpanEndOption)             { s.ended = true }

const someTrace = "0af7651916cd43dd8448eb211c80319c"

// traced returns the context of a request that Caddy traces, and the tracer.
func traced(t *testing.T) (context.Context, *recorder) {
	t.Helper()
	id, err := trace.TraceIDFromHex(someTrace)
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{}
	return trace.ContextWithSpan(t.Context(), &recorded{from: r, context: trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: id, SpanID: trace.SpanID{1}, TraceFlags: trace.FlagsSampled,
	})}), r
}

// A site has no tracing. Nothing is recorded, no header is sent to anybody, and no code has to ask
// whether there is a span.
func TestNothingIsRecordedWithoutATrace(t *testing.T) {
	ctx, s := Start(t.Context(), "login")
	if ctx != t.Context() {
		t.Error("the context is another one")
	}
	same, call := StartCall(ctx, "call", "api.weixin.qq.com")
	for _, s := range []Span{s, call, {}} {
		s.Set("a", "b")
		s.SetInt("a", 1)
		s.End(true)
	}
	h := http.Header{}
	Inject(same, h)
	if len(h) != 0 || TraceID(same) != "" {
		t.Errorf("%v, %q", h, TraceID(same))
	}
}

// A login that Caddy traces calls WeChat. The call's span is below the login's, both are in the
// trace of the request, and what is called further on continues from the call.
func TestSpansAreBelowTheRequest(t *testing.T) {
	request, r := traced(t)
	ctx, login := Start(request, "login")
	ctx, call := StartCall(ctx, "jscode2session", "api.weixin.qq.com")
	h := http.Header{}
	Inject(ctx, h)
	if got, want := h.Get("Traceparent"), "00-"+someTrace+"-0300000000000000-01"; got != want {
		t.Errorf("traceparent %q, want %q", got, want)
	}
	if TraceID(ctx) != someTrace || TraceID(request) != someTrace {
		t.Errorf("traces %q and %q", TraceID(ctx), TraceID(request))
	}
	call.End(false)
	login.End(true)
	if len(r.spans) != 2 {
		t.Fatalf("%d spans", len(r.spans))
	}
	one, two := r.spans[0], r.spans[1]
	if one.name != "login" || one.kind != trace.SpanKindInternal || one.parent != (trace.SpanID{1}) {
		t.Errorf("%+v", one)
	}
	if two.name != "jscode2session" || two.kind != trace.SpanKindClient || two.parent != one.context.SpanID() ||
		!slices.Contains(two.attributes, attribute.String("server.address", "api.weixin.qq.com")) {
		t.Errorf("%+v", two)
	}
}

// A span that failed is an error without a text: the text of an error may hold a URL or a code.
// One that succeeded leaves its status unset, as OpenTelemetry wants it. An attribute without a
// value is left out, so that a search for it finds the spans that have one.
func TestFailedSpansHaveNoText(t *testing.T) {
	for failed, want := range map[bool]codes.Code{true: codes.Error, false: codes.Unset} {
		ctx, r := traced(t)
		_, s := Start(ctx, "login")
		s.Set("app", "wx1")
		s.Set("code", "")
		s.SetInt("errcode", 0)
		s.End(failed)
		got := r.spans[0]
		if !got.ended || got.code != want || got.text != "" {
			t.Errorf("failed %v: %+v", failed, got)
		}
		if want := []attribute.KeyValue{attribute.String("app", "wx1"), attribute.Int("errcode", 0)}; !slices.Equal(got.attributes, want) {
			t.Errorf("%v, want %v", got.attributes, want)
		}
	}
}
