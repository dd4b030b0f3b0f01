package proxyproto

import (
	"context"
	"net"
	"net/netip"
)

type contextKey struct{}

// NewContext returns ctx carrying h, for a dial on behalf of a client.
func NewContext(ctx context.Context, h *Header) context.Context {
	return context.WithValue(ctx, contextKey{}, h)
}

// FromContext returns the header that ctx carries. Without one it returns a
// Local header: no client is behind the connection.
func FromContext(ctx context.Context) *Header {
	if h, ok := ctx.Value(contextKey{}).(*Header); ok {
		return h
	}
	return new(Header)
}

// On returns the header for a client and the connection of its request. If the
// client is not the peer of that connection, there is a proxy in between: then
// the client's port is not known, and is 0. An unknown local address becomes
// the unspecified one.
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

// AddrPort returns the address of an end of a connection. It is invalid unless
// it is a TCP address.
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
