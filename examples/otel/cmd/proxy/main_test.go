package main

import (
	"context"
	"io"
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	sdk "go.opentelemetry.io/otel/sdk/trace"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestMain(m *testing.M) { proxytest.Main(m) }

// A names exporter keeps the names of exported spans.
type names struct{ exported []string }

func (n *names) ExportSpans(_ context.Context, spans []sdk.ReadOnlySpan) error {
	for _, s := range spans {
		n.exported = append(n.exported, s.Name())
	}
	return nil
}

func (*names) Shutdown(context.Context) error { return nil }

func TestTheProgramExportsItsSpansAtTheEnd(t *testing.T) {
	backend, addr, exporter := proxytest.NewServer(t, nil), proxytest.Free(t), new(names)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- run(ctx, addr, "127.0.0.0/8", []string{"app.localhost=" + backend.Addr()}, exporter) }()
	c := proxytest.HTTPClient(t, addr, nil, "h1")
	proxytest.Eventually(t, "the program serves", func() bool {
		p, err := c.Get("http://app.localhost/")
		if err != nil {
			return false
		}
		defer p.Body.Close()
		_, err = io.Copy(io.Discard, p.Body)
		return err == nil && p.StatusCode == http.StatusOK
	})
	assert.Len(t, backend.Last(t).Header["Traceparent"], 1)
	cancel()
	require.NoError(t, <-done)
	assert.Equal(t, []string{"GET", "GET app.localhost"}, exporter.exported)
}

// A hanging exporter hangs until the channel is closed.
type hanging chan struct{}

func (h hanging) ExportSpans(context.Context, []sdk.ReadOnlySpan) error {
	<-h
	return nil
}

func (hanging) Shutdown(context.Context) error { return nil }

func TestAnExporterThatHangsDelaysTheEndByALimitedTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := make(hanging)
		p := sdk.NewTracerProvider(sdk.WithBatcher(h))
		_, span := p.Tracer("").Start(t.Context(), "GET")
		span.End()
		assert.ErrorIs(t, shutDown(t.Context(), p), context.DeadlineExceeded)
		close(h)
	})
}

func TestABadArgumentIsAnError(t *testing.T) {
	assert.ErrorContains(t, run(t.Context(), "", "10.0.0.0/8", []string{"app.localhost"}, new(names)), `argument "app.localhost": want host=target`)
	assert.ErrorContains(t, run(t.Context(), "", "10", []string{"a=b:1"}, new(names)), `-trusted: netip.ParsePrefix("10")`)
	assert.ErrorContains(t, run(t.Context(), "", "10.0.0.0/8", nil, new(names)), "no routes: want one or more arguments")
}
