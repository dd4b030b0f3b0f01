package serve

import (
	"context"

	"github.com/hostproxy/hostproxy/internal/forward"
	"github.com/hostproxy/hostproxy/internal/pool"
	"github.com/hostproxy/hostproxy/internal/proxyproto"
)

// take takes a kept connection to t, or returns nil if there is none.
func (x *fastExchange) take(t *forward.Target) *pool.Conn {
	if !t.Pool.Apart {
		return t.Pool.Take()
	}
	x.origin = x.introduction()
	return t.Pool.TakeFor(&x.origin)
}

// introduction returns what the PROXY protocol says about the client.
func (x *fastExchange) introduction() proxyproto.Header {
	c := x.front.conn()
	return proxyproto.On(x.hop.Client, proxyproto.AddrPort(c.RemoteAddr()), proxyproto.AddrPort(c.LocalAddr()))
}

// dialing returns ctx for a dial of t.
func (x *fastExchange) dialing(ctx context.Context, t *forward.Target) context.Context {
	if !t.Pool.Apart {
		return ctx
	}
	h := x.introduction()
	return proxyproto.NewContext(ctx, &h)
}
