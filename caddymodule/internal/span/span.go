// Package span records what a request causes, as spans below the one of Caddy's tracing directive.
//
// No attribute may hold a code, token, phone number, secret, or a URL with a query.
package span

import (
	"context"
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

const scope = "github.com/wx-auth/caddy-wx-auth"

// Span is a span that has begun. The zero Span, which a request without tracing has, records
// nothing.
type Span struct{ otel trace.Span }

// Start begins a span below the one in ctx. If ctx has none, Start returns it unchanged, with a
// span that records nothing.
func Start(ctx context.Context, name string) (context.Context, Span) {
	return start(ctx, name, trace.SpanKindInternal)
}

// StartCall is like Start, for a request to another system's host.
func StartCall(ctx context.Context, name, host string) (context.Context, Span) {
	ctx, s := start(ctx, name, trace.SpanKindClient)
	s.Set("server.address", host)
	return ctx, s
}

func start(ctx context.Context, name string, kind trace.SpanKind) (context.Context, Span) {
	parent := trace.SpanFromContext(ctx)
	if !parent.SpanContext().IsValid() {
		return ctx, Span{}
	}
	ctx, s := parent.TracerProvider().Tracer(scope).Start(ctx, name, trace.WithSpanKind(kind))
	return ctx, Span{s}
}

// Set adds an attribute. An empty value is left out.
func (s Span) Set(name, value string) {
	if s.otel != nil && value != "" {
		s.otel.SetAttributes(attribute.String(name, value))
	}
}

// SetInt adds an attribute.
func (s Span) SetInt(name string, value int) {
	if s.otel != nil {
		s.otel.SetAttributes(attribute.Int(name, value))
	}
}

// End ends the span. If failed is set, the span is marked as an error.
func (s Span) End(failed bool) {
	if s.otel == nil {
		return
	}
	if failed {
		s.otel.SetStatus(codes.Error, "")
	}
	s.otel.End()
}

// TraceID returns the id of the trace to which ctx belongs, or "" if it is not traced.
func TraceID(ctx context.Context) string {
	if c := trace.SpanContextFromContext(ctx); c.IsValid() {
		return c.TraceID().String()
	}
	return ""
}

// Inject writes the headers traceparent and tracestate (W3C Trace Context) if ctx is traced.
func Inject(ctx context.Context, h http.Header) {
	propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(h))
}
