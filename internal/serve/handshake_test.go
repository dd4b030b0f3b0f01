package serve_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
	"github.com/hostproxy/hostproxy/internal/serve"
)

// A pauser is a connection during a handshake that waits.
type pauser interface {
	Pause(atLeast time.Duration) (context.Context, func(error) error)
}

// A pipes is an in-memory listener.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	select {
	case <-p.done:
	default:
		close(p.done)
	}
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial() net.Conn {
	client, server := net.Pipe()
	p.conns <- server
	return client
}

// waitingServer serves over pipes, in a bubble. A handshake for wait.test calls
// wait; any other gets its certificate immediately.
func waitingServer(t testing.TB, s *serve.Server, wait func(pauser) error) (*pipes, *x509.CertPool) {
	t.Helper()
	cert, roots := proxytest.Certificate(t, "a.test", "wait.test")
	s.TLS = &tls.Config{NextProtos: []string{"acme-tls/1"}, GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if hello.ServerName == "wait.test" {
			if err := wait(hello.Conn.(pauser)); err != nil {
				return nil, err
			}
		}
		return &cert, nil
	}}
	s.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	s.Log = slog.New(slog.DiscardHandler)
	ln := newPipes()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return ln, roots
}

func client(ln *pipes, roots *x509.CertPool, host string, protos ...string) *tls.Conn {
	return tls.Client(ln.dial(), &tls.Config{ServerName: host, RootCAs: roots, NextProtos: protos})
}

// held waits for the end of the context that Pause returns.
func held(atLeast time.Duration) func(pauser) error {
	return func(p pauser) error {
		ctx, end := p.Pause(atLeast)
		<-ctx.Done()
		return end(context.Cause(ctx))
	}
}

func TestAPauseLastsForTheLongerOfHandshakeTimeoutAndAtLeast(t *testing.T) {
	for _, tt := range []struct{ timeout, atLeast, want time.Duration }{
		{10 * time.Second, 0, 10 * time.Second},
		{10 * time.Second, 30 * time.Second, 30 * time.Second},
		{time.Minute, 30 * time.Second, time.Minute},
	} {
		synctest.Test(t, func(t *testing.T) {
			ln, roots := waitingServer(t, &serve.Server{HandshakeTimeout: tt.timeout}, held(tt.atLeast))
			begin := time.Now()
			c := client(ln, roots, "wait.test")
			assert.ErrorContains(t, c.Handshake(), "internal error", "the client is told")
			assert.Equal(t, tt.want, time.Since(begin))
			c.Close()
		})
	}
}

// A handshake that waited ends in time, and its limits do not remain on the
// connection.
func TestAPausedHandshakeEndsInTimeAndLeavesNoDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln, roots := waitingServer(t, &serve.Server{HandshakeTimeout: 10 * time.Second}, func(p pauser) error {
			_, end := p.Pause(30 * time.Second)
			time.Sleep(20 * time.Second)
			return end(nil)
		})
		begin := time.Now()
		stalled := helloFrom(ln.dial(), "wait.test")
		_, _ = io.Copy(io.Discard, stalled)
		took := time.Since(begin)
		assert.True(t, 30*time.Second <= took && took <= 31*time.Second, "%v", took)
		stalled.Close()

		c := client(ln, roots, "wait.test")
		require.NoError(t, c.Handshake())
		time.Sleep(time.Hour)
		_, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
		require.NoError(t, err)
		answer, err := io.ReadAll(c)
		require.NoError(t, err)
		assert.Contains(t, string(answer), "200 OK")
		c.Close()
	})
}

func TestAPauseReleasesTheHandshakeSlotAndThenTakesOneAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		goOn := make(chan struct{})
		ln, roots := waitingServer(t, &serve.Server{MaxHandshakes: 1}, func(p pauser) error {
			_, end := p.Pause(0)
			<-goOn
			return end(nil)
		})
		waiting := client(ln, roots, "wait.test")
		done := make(chan error, 1)
		go func() { done <- waiting.Handshake() }()
		synctest.Wait()
		other := client(ln, roots, "a.test")
		require.NoError(t, other.Handshake())

		raw := helloFrom(ln.dial(), "a.test") // takes the slot
		synctest.Wait()
		close(goOn)
		synctest.Wait()
		select {
		case <-done:
			assert.Fail(t, "it did not wait for the slot")
		default:
		}
		raw.Close()
		require.NoError(t, <-done)
		waiting.Close()
		other.Close()
	})
}

// helloFrom sends a ClientHello and nothing more.
func helloFrom(c net.Conn, host string, protos ...string) net.Conn {
	_ = tls.Client(mute{c}, &tls.Config{ServerName: host, NextProtos: protos}).Handshake()
	return c
}

// A mute connection returns nothing from Read.
type mute struct{ net.Conn }

func (m mute) Read([]byte) (int, error) { return 0, errors.New("not now") }

// Close does nothing.
func (m mute) Close() error { return nil }

// Write drops alerts.
func (m mute) Write(p []byte) (int, error) {
	if p[0] == 21 {
		return len(p), nil
	}
	return m.Conn.Write(p)
}

func TestChallengesBeyondTheLimitEvictTheOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln, roots := waitingServer(t, &serve.Server{MaxHandshakes: 1}, held(0))
		var stalled []net.Conn
		for range 130 {
			stalled = append(stalled, helloFrom(ln.dial(), "a.test", "acme-tls/1"))
			synctest.Wait()
		}
		require.NoError(t, client(ln, roots, "a.test", "acme-tls/1").Handshake())
		for i, c := range stalled {
			_ = c.SetDeadline(time.Now().Add(time.Millisecond))
			_, err := c.Write([]byte{0})
			if i < 3 {
				assert.ErrorIs(t, err, io.ErrClosedPipe, i)
			} else {
				assert.ErrorIs(t, err, os.ErrDeadlineExceeded, i)
			}
			c.Close()
		}
	})
}

func TestAHandshakeWithoutASlotEndsAtItsTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln, roots := waitingServer(t, &serve.Server{MaxHandshakes: 1, HandshakeTimeout: 10 * time.Second}, func(pauser) error {
			time.Sleep(time.Minute) // a hook of the program keeps its place
			return errors.New("too late")
		})
		go func() { _ = client(ln, roots, "wait.test").Handshake() }()
		synctest.Wait()
		begin := time.Now()
		assert.Error(t, client(ln, roots, "a.test").Handshake())
		assert.LessOrEqual(t, time.Since(begin), 11*time.Second)
	})
}

// A client that has only connected does not hold a shutdown up for the whole
// HandshakeTimeout, and one that is slow still completes its handshake.
func TestADrainLimitsHandshakes(t *testing.T) {
	for _, timeout := range []time.Duration{0, 10 * time.Second, time.Second} {
		for name, begin := range map[string]func(c net.Conn){
			"no byte":         func(net.Conn) {},
			"part of a hello": func(c net.Conn) { _, _ = c.Write([]byte{22, 3, 1}) },
		} {
			t.Run(fmt.Sprint(name, timeout), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					ctx, drain := context.WithCancel(t.Context())
					ln, done := newPipes(), make(chan error, 1)
					s := &serve.Server{HandshakeTimeout: timeout, DrainTimeout: time.Minute, Log: slog.New(slog.DiscardHandler), TLS: &tls.Config{}}
					go func() { done <- s.Serve(ctx, ln) }()
					c := ln.dial()
					begin(c)
					synctest.Wait()
					drain()
					began := time.Now()
					_, err := c.Read(make([]byte, 1))
					assert.ErrorIs(t, err, io.EOF)
					c.Close()
					assert.NoError(t, <-done)
					if timeout == time.Second {
						assert.Equal(t, time.Second, time.Since(began), "an earlier end stays")
					} else {
						assert.Equal(t, 3*time.Second, time.Since(began))
					}
				})
			})
		}
	}
}

func TestAHandshakeThatADrainFindsCanBeCompleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cert, roots := proxytest.Certificate(t, "a.test")
		ctx, drain := context.WithCancel(t.Context())
		ln, done := newPipes(), make(chan error, 1)
		s := &serve.Server{HandshakeTimeout: 10 * time.Second, Log: slog.New(slog.DiscardHandler), TLS: &tls.Config{Certificates: []tls.Certificate{cert}},
			Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })}
		go func() { done <- s.Serve(ctx, ln) }()
		c := client(ln, roots, "a.test")
		synctest.Wait()
		drain()
		time.Sleep(2 * time.Second)
		require.NoError(t, c.Handshake())
		go func() { _, _ = io.WriteString(c, get) }()
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		require.NoError(t, err)
		assert.Equal(t, http.StatusOK, res.StatusCode)
		c.Close()
		assert.NoError(t, <-done)
	})
}

// A program's hook may take longer to choose a certificate than a client has
// during a drain: that is not the client's time.
func TestADrainWaitsForTheCertificateOfAHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cert, roots := proxytest.Certificate(t, "a.test")
		ctx, drain := context.WithCancel(t.Context())
		ln, done := newPipes(), make(chan error, 1)
		s := &serve.Server{HandshakeTimeout: 10 * time.Second, Log: slog.New(slog.DiscardHandler), TLS: &tls.Config{
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
				drain()
				time.Sleep(5 * time.Second)
				return &cert, nil
			}}}
		go func() { done <- s.Serve(ctx, ln) }()
		c := client(ln, roots, "a.test")
		require.NoError(t, c.Handshake())
		began := time.Now()
		c.Close()
		assert.NoError(t, <-done)
		assert.Less(t, time.Since(began), time.Second)
	})
}
