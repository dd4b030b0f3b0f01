package cluster_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/examples/cluster"
)

// state returns the answer of a gate.
func state(g *cluster.Gate) string {
	w := httptest.NewRecorder()
	g.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	return http.StatusText(w.Code) + ": " + w.Body.String()
}

const (
	starting = "Service Unavailable: starting\n"
	ready    = "OK: ready\n"
	draining = "Service Unavailable: draining\n"
)

func TestAGateClosesBeforeTheServerShutsDown(t *testing.T) {
	for about, c := range map[string]struct{ set, want time.Duration }{
		"zero": {0, 10 * time.Second}, "a delay": {3 * time.Second, 3 * time.Second}, "negative": {-1, 0},
	} {
		t.Run(about, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := &cluster.Gate{Delay: c.set, Logger: slog.New(slog.DiscardHandler)}
				assert.Equal(t, starting, state(g), "before Context")
				ctx, cancel := context.WithCancel(t.Context())
				serve := g.Context(ctx)
				synctest.Wait()
				assert.Equal(t, ready, state(g))
				cancel()
				began := time.Now()
				synctest.Wait()
				assert.Equal(t, draining, state(g))
				<-serve.Done()
				assert.Equal(t, c.want, time.Since(began))
				assert.Equal(t, draining, state(g))
				again, cancel := context.WithCancel(t.Context())
				serve = g.Context(again)
				synctest.Wait()
				assert.Equal(t, draining, state(g), "the gate is never ready again")
				cancel()
				<-serve.Done()
			})
		})
	}
}

func TestAGateStaysClosedUntilStartHasSucceeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		said := new(logged)
		g := &cluster.Gate{Logger: said.logger(), Start: func(context.Context) error {
			switch calls.Add(1) {
			case 1, 2:
				return errors.New("redis is away")
			case 3:
				panic("a bug")
			case 4:
				runtime.Goexit()
			}
			return nil
		}}
		ctx, cancel := context.WithCancel(t.Context())
		serve := g.Context(ctx)
		time.Sleep(3500 * time.Millisecond)
		assert.Equal(t, starting, state(g))
		time.Sleep(time.Second)
		assert.Equal(t, ready, state(g))
		assert.Equal(t, 1, count(said.String(), "redis is away"), "logged once")
		assert.Equal(t, 1, count(said.String(), "a bug"))
		cancel()
		<-serve.Done()
		assert.EqualValues(t, 5, calls.Load())
	})
}

// The load balancer has not sent any request yet.
func TestAGateThatNeverOpenedDoesNotDelayTheEnd(t *testing.T) {
	for about, start := range map[string]func(context.Context) error{
		"fails": func(context.Context) error { return errors.New("away") },
		"hangs": func(context.Context) error { <-time.NewTimer(time.Hour).C; return nil },
	} {
		t.Run(about, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := &cluster.Gate{Logger: slog.New(slog.DiscardHandler), Start: start}
				ctx, cancel := context.WithCancel(t.Context())
				serve := g.Context(ctx)
				time.Sleep(5 * time.Second)
				cancel()
				began := time.Now()
				<-serve.Done()
				assert.Zero(t, time.Since(began))
				assert.Equal(t, draining, state(g))
				time.Sleep(time.Hour) // Start may end
			})
		})
	}
}

// A signal may come before Context is called.
func TestAGateWhoseContextIsDoneAtOnceIsNeverReady(t *testing.T) {
	for about, start := range map[string]func(context.Context) error{"no Start": nil, "Start succeeds": func(context.Context) error { return nil }} {
		t.Run(about, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				said := new(logged)
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				began := time.Now()
				<-(&cluster.Gate{Logger: said.logger(), Start: start}).Context(ctx).Done()
				assert.Zero(t, time.Since(began))
				assert.NotContains(t, said.String(), "may send requests")
			})
		})
	}
}

func TestAGateAnswersHealthChecksOnly(t *testing.T) {
	g := new(cluster.Gate)
	w := httptest.NewRecorder()
	g.ServeHTTP(w, httptest.NewRequest("POST", "/", nil))
	assert.Equal(t, 405, w.Code)
	assert.Equal(t, "GET, HEAD", w.Header().Get("Allow"))
	w = httptest.NewRecorder()
	g.ServeHTTP(w, httptest.NewRequest("HEAD", "/any/path", nil))
	assert.Equal(t, 503, w.Code)
	assert.Equal(t, "no-store", w.Header().Get("Cache-Control"))
}
