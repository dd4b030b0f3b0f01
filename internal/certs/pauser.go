package certs

import (
	"context"
	"crypto/tls"
	"time"

	"github.com/hostproxy/hostproxy/internal/peek"
)

// A pauser is a connection below TLS whose server bounds its handshakes. It is
// told when one waits, so that the wait takes nothing from other handshakes.
type pauser interface {
	// Pause begins a wait. ctx ends with the time for the handshake, which is
	// at least atLeast from its ClientHello, or when the client disconnects.
	// end ends the wait: with nil it returns an error if the handshake cannot
	// go on, else the error that ends the handshake.
	Pause(atLeast time.Duration) (ctx context.Context, end func(error) error)
}

// A foreign is a pauser for the connection of a server that is not ours. The
// deadlines are that server's.
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

// contextOf returns the context of the handshake; programs that make a hello
// themselves have none.
func contextOf(hello *tls.ClientHelloInfo) context.Context {
	if ctx := hello.Context(); ctx != nil {
		return ctx
	}
	return context.Background()
}
