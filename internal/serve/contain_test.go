package serve_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/serve"
)

// An armedConn is of a type that panics in a method once it is armed.
type armedConn struct {
	net.Conn
	method string
	armed  atomic.Bool
	hit    atomic.Bool
}

func (c *armedConn) may(method string) {
	if c.method == method && c.armed.Load() {
		c.hit.Store(true)
		panic("oh")
	}
}

func (c *armedConn) SetReadDeadline(t time.Time) error {
	c.may("SetReadDeadline")
	return c.Conn.SetReadDeadline(t)
}

func (c *armedConn) Close() error {
	err := c.Conn.Close()
	c.may("Close")
	return err
}

type armedListener struct {
	*pipes
	method string
	conns  chan *armedConn
}

func (l *armedListener) Accept() (net.Conn, error) {
	c, err := l.pipes.Accept()
	if err != nil {
		return nil, err
	}
	armed := &armedConn{Conn: c, method: l.method}
	l.conns <- armed
	return armed, nil
}

// What the server does with connections on goroutines of its own, which serve all of them, ends none but the one that panics.
func TestAConnectionThatPanicsEndsNeitherASweepNorADrain(t *testing.T) {
	for _, tt := range []struct {
		name, method string
		busy         bool // with a request, until the connection ends
		sweeps       bool // or else it is a drain that comes upon it
	}{
		{"in a sweep", "SetReadDeadline", false, true},
		{"in a drain", "SetReadDeadline", false, false},
		{"in its end behind a drain", "Close", false, false},
		{"at the end of a drain's time", "Close", true, false},
	} {
		for _, protocol := range []string{"HTTP/1.1", "HTTP/2"} {
			t.Run(tt.name+" "+protocol, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					release := make(chan struct{})
					ln := &armedListener{pipes: newPipes(), method: tt.method, conns: make(chan *armedConn, 1)}
					s := &serve.Server{H2C: true, Log: slog.New(slog.DiscardHandler), DrainTimeout: 10 * time.Second,
						Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
							if tt.busy {
								<-release
							}
						})}
					ctx, cancel := context.WithCancel(t.Context())
					done := make(chan error, 1)
					go func() { done <- s.Serve(ctx, ln) }()
					c := ln.dial()
					armed := <-ln.conns
					if protocol == "HTTP/2" {
						p := newPeer(t, c)
						p.listen()
						p.ask(1, false, of("GET", "/")...)
					} else {
						go func() { _, _ = io.Copy(io.Discard, c) }()
						_, err := io.WriteString(c, get)
						require.NoError(t, err)
					}
					synctest.Wait()
					armed.armed.Store(true)
					if tt.sweeps {
						time.Sleep(5 * time.Second)
					}
					cancel()
					err := <-done
					if tt.busy {
						assert.Equal(t, serve.ErrDrainTimeout, err)
					} else {
						assert.NoError(t, err)
					}
					assert.True(t, armed.hit.Load())
					close(release)
					c.Close()
				})
			})
		}
	}
}
