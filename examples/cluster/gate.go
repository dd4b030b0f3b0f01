package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"
)

const (
	gateDelay = 10 * time.Second // see Gate.Delay
	gatePause = time.Second      // between two calls of Gate.Start
)

// A Gate tells a load balancer whether a proxy is ready, and gives it time to
// notice when the proxy shuts down. It is an http.Handler for the load
// balancer's health check: it answers GET and HEAD with 200 "ready", or with
// 503 "starting" or "draining". Serve it on a listener of its own, with
// [hostproxy.RoleInternal]:
//
//	gate := &cluster.Gate{Delay: 5 * time.Second}
//	s.Listeners = append(s.Listeners, hostproxy.Listener{Addr: ":9000", Role: hostproxy.RoleInternal, Handler: gate})
//	err := s.Serve(gate.Context(ctx), nil, nil)
//
// Until Context is called, the answer is 503. Set the fields before that.
type Gate struct {
	// Delay is the time between the end of the context, when the answer becomes
	// 503, and the shutdown of the Server. Until then, all requests are served.
	// It should be longer than the load balancer needs to notice: the interval
	// of its checks times the number of failures that it requires, plus their
	// timeout. Zero means 10 s; negative means no delay.
	Delay time.Duration

	// Start is called once Context is called. Until it returns nil, the answer
	// is 503. After an error or a panic, it is called again a second later. Use
	// it to keep a proxy out of service that cannot get certificates yet; see
	// [Storage.Check]. Once it has returned nil, it is not called again:
	// proxies with certificates in memory serve without Redis. Nil means ready
	// immediately.
	Start func(ctx context.Context) error

	// Logger logs when the answer changes, and why Start fails. Nil means
	// slog.Default().
	Logger *slog.Logger

	state atomic.Int32
}

// The states of a Gate.
const (
	gateStarting int32 = iota
	gateReady
	gateDraining
)

// Context returns a context for the Server. It is done Delay after ctx, or
// immediately after ctx if the proxy was never ready. Call it once, just before
// the Server serves: a Gate that has drained is never ready again.
func (g *Gate) Context(ctx context.Context) context.Context {
	serve, stop := context.WithCancel(context.WithoutCancel(ctx))
	go g.run(ctx, stop)
	return serve
}

// run takes the gate through its states.
func (g *Gate) run(ctx context.Context, stop context.CancelFunc) {
	defer stop()
	if !g.started(ctx) { // the load balancer has not sent any request
		g.drain("shutting down before it was ready")
		return
	}
	if g.state.CompareAndSwap(gateStarting, gateReady) {
		g.logger().Info("ready: the load balancer may send requests")
	}
	<-ctx.Done()
	delay := g.delay()
	g.drain("draining: listeners close after the delay", "delay", delay)
	if delay > 0 {
		<-time.NewTimer(delay).C
	}
}

// started calls Start until it succeeds. It returns false when ctx is done.
func (g *Gate) started(ctx context.Context) bool {
	if g.Start == nil {
		return ctx.Err() == nil
	}
	pause := time.NewTicker(gatePause)
	defer pause.Stop()
	said := ""
	for {
		result := make(chan error, 1) // buffered: Start may ignore ctx
		go func() {
			err := errors.New("Gate.Start has ended its goroutine")
			defer func() { result <- err }()
			err = g.start(ctx)
		}()
		select {
		case <-ctx.Done():
			return false
		case err := <-result:
			if err == nil {
				return ctx.Err() == nil
			}
			if text := err.Error(); text != said {
				said = text
				g.logger().Warn("not ready yet", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return false
		case <-pause.C:
		}
	}
}

// start calls Start, and turns a panic into an error.
func (g *Gate) start(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("Gate.Start panics: %v", p)
		}
	}()
	return g.Start(ctx)
}

func (g *Gate) drain(message string, args ...any) {
	g.state.Store(gateDraining)
	g.logger().Info(message, args...)
}

// ServeHTTP answers a health check of the load balancer.
func (g *Gate) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	if q.Method != http.MethodGet && q.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "want GET or HEAD", http.StatusMethodNotAllowed)
		return
	}
	status, text := http.StatusServiceUnavailable, "starting\n"
	switch g.state.Load() {
	case gateReady:
		status, text = http.StatusOK, "ready\n"
	case gateDraining:
		text = "draining\n"
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text)
}

func (g *Gate) delay() time.Duration {
	if g.Delay == 0 {
		return gateDelay
	}
	return max(g.Delay, 0)
}

func (g *Gate) logger() *slog.Logger {
	if g.Logger != nil {
		return g.Logger
	}
	return slog.Default()
}
