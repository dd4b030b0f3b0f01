package proxyproto

import (
	"context"
	"net"
	"net/netip"
)

type contextKey struct{}

// NewContext returns ctx carrying h, for what dials on behalf of a client.
func NewContext(ctx context.Context, h *Header) context.Context {
	return context.WithValue(ctx, contextKey{}, h)
}

// FromContext returns the header that ctx carries. Without one it is Local:
// nobody has asked for the connection.
func FromContext(ctx context.Context) *Header {
	if h, ok := ctx.Value(contextKey{}).(*Header); ok {
		return h
	}
	return new(Header)
}

// On returns the header for a client and the connection that its request came
// on. The client is not the peer of that if there is a proxy in between: then
// its port is not known, and is 0. An unknown local address is the unspecified
// one.
func On(client netip.Addr, remote, local netip.AddrPort) Header {
	if !client.IsValid() {
		return Header{}
	}
	port := remote.Port()
	if remote.Addr().Unmap().WithZone("") != client {
		port = 0
	}
	if !local.IsValid() {
		local = netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
		if client.Is4() {
			local = netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
		}
	}
	return Of(netip.AddrPortFrom(client, port), local)
}

// AddrPort returns the address of an end of a connection; invalid unless it is
// of TCP.
func AddrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort()
	}
	return netip.AddrPort{}
}

// Append appends h as a header of a version, 1 or 2.
func Append(b []byte, version int, h *Header) []byte {
	if version == 1 {
		return AppendV1(b, *h)
	}
	return AppendV2(b, *h)
}
