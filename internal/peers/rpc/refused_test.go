package rpc_test

import (
	"io"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"golang.org/x/net/http2"
	testpb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A target can say that it has not processed a call. The call is then sent
// again, even if it is not idempotent.
func TestACallThatTheTargetHasNotProcessedIsSentAgain(t *testing.T) {
	for name, refuse := range map[string]func(f *http2.Framer, stream uint32){
		"GOAWAY": func(f *http2.Framer, _ uint32) { _ = f.WriteGoAway(0, http2.ErrCodeNo, nil) },
		"REFUSED_STREAM": func(f *http2.Framer, stream uint32) {
			_ = f.WriteRSTStream(stream, http2.ErrCodeRefusedStream)
			// makes the next call use another connection
			_ = f.WriteGoAway(stream, http2.ErrCodeNo, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			proxytest.NoLeaks(t)
			g := newTarget(t, "h2c")
			u := hostproxy.To("h2c://" + refusing(t, g.addr, refuse))
			c := place{plain, "h2c"}.serve(t, only(u)).dial(t, "localhost")
			p, err := c.UnaryCall(patient(t), &testpb.SimpleRequest{Payload: payload(1000)})
			if assert.NoError(t, err) {
				assert.Len(t, p.GetPayload().GetBody(), 1000)
			}
		})
	}
}

// refusing returns the address of a server that refuses the first call on its
// first connection, and forwards all other connections.
func refusing(t *testing.T, to string, refuse func(*http2.Framer, uint32)) string {
	t.Helper()
	ln := proxytest.Listen(t)
	var all sync.WaitGroup
	serve := func(c net.Conn) {
		f := http2.NewFramer(c, c)
		_, _ = io.CopyN(io.Discard, c, int64(len(http2.ClientPreface)))
		_ = f.WriteSettings()
		for {
			frame, err := f.ReadFrame()
			if err != nil {
				return
			}
			switch frame := frame.(type) {
			case *http2.SettingsFrame:
				if !frame.IsAck() {
					_ = f.WriteSettingsAck()
				}
			case *http2.DataFrame: // the proxy has sent the whole call, and must send it again
				if frame.StreamEnded() {
					refuse(f, frame.StreamID)
				}
			}
		}
	}
	all.Go(func() {
		for first := true; ; first = false {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				if first {
					serve(c)
				} else {
					passOn(c, to)
				}
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		all.Wait()
	})
	return ln.Addr().String()
}

// passOn forwards bytes between c and the server at to until one of them ends.
func passOn(c net.Conn, to string) {
	target, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = io.Copy(target, c)
		target.Close()
	})
	_, _ = io.Copy(c, target)
	c.Close()
	both.Wait()
}
