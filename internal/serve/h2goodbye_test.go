package serve_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/hostproxy/hostproxy/internal/serve"
)

// A client that has got no response need not read one: it holds a shutdown up
// no longer if it goes on to send frames.
func TestAnHTTP2ClientWithoutARequestDoesNotHoldADrainUp(t *testing.T) {
	const (
		settings = "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
		ping     = "\x00\x00\x08\x06\x00\x00\x00\x00\x00peculiar"
		block    = "\x00\x00\x01\x01\x01\x00\x00\x00\x01\x82" // without an end
		more     = "\x00\x00\x01\x09\x00\x00\x00\x00\x01\x84"
	)
	for name, said := range map[string][2]string{
		"sends PINGs":                       {http2.ClientPreface + settings, ping},
		"sends a header block without end":  {http2.ClientPreface + settings + block, more},
		"sends the preface byte by byte":    {http2.ClientPreface[:20], "\r"},
		"sends nothing but a whole preface": {http2.ClientPreface + settings, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, drain := context.WithCancel(t.Context())
				ln, done := newPipes(), make(chan error, 1)
				s := &serve.Server{ReadHeaderTimeout: 10 * time.Second, DrainTimeout: 30 * time.Second, H2C: true, Log: slog.New(slog.DiscardHandler)}
				go func() { done <- s.Serve(ctx, halves{ln}) }()
				c := ln.dial()
				go func() { _, _ = io.Copy(io.Discard, c) }()
				_, err := io.WriteString(c, said[0])
				require.NoError(t, err)
				synctest.Wait()
				drain()
				began := time.Now()
				for err := error(nil); err == nil && time.Since(began) < time.Minute; _, err = io.WriteString(c, said[1]) {
					time.Sleep(300 * time.Millisecond)
				}
				assert.Less(t, time.Since(began), 4*time.Second)
				c.Close()
				assert.NoError(t, <-done)
			})
		})
	}
}

// halves are pipes whose accepted end can be closed for writing alone, which
// the client does not notice.
type halves struct{ *pipes }

// Accept implements net.Listener.
func (h halves) Accept() (net.Conn, error) {
	c, err := h.pipes.Accept()
	return half{c}, err
}

type half struct{ net.Conn }

func (half) CloseWrite() error { return nil }
