package certs

import (
	"context"
	"crypto/tls"
	"time"

	"github.com/hostproxy/hostproxy/internal/peek"
)

// A pauser is a connection below TLS whose server limits handshakes. It is told
// when a handshake waits, so that the wait does not count against other
// handshakes.
type pauser interface {
	// Pause begins a wait. ctx ends when the handshake's time is over, which is
	// at least atLeast from its ClientHello, or when the client disconnects.
	// end ends the wait: with nil it returns an error if the handshake cannot
	// continue; otherwise it returns the error that ends the handshake.
	Pause(atLeast time.Duration) (ctx context.Context, end func(error) error)
}

// A foreign is a pauser for the connection of a server that is not ours. That
// server sets the deadlines.
type foreign struct{ hello *tls.ClientHelloInfo }

// Pause implements pauser.
func (f foreign) Pause(atLeast time.Duration) (context.Context, func(error) error) {
	ctx, stop := context.WithTimeout(contextOf(f.hello), max(waitPatience, atLeast))
	ctx, cancel := peek.Context(ctx, f.hello.Conn)
	return ctx, func(err error) error {
		cancel()
		stop()
		return err
	}
}

// contextOf returns the context of the handshake. A ClientHelloInfo that a
// program made itself has none.
func contextOf(hello *tls.ClientHelloInfo) context.Context {
	if ctx := hello.Context(); ctx != nil {
		return ctx
	}
	return context.Background()
}
