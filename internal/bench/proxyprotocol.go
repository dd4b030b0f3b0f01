package main

import (
	"net"
	"net/netip"

	"github.com/hostproxy/hostproxy"
)

// proxyProtocol is the feature of a Server that reads a PROXY protocol header
// on each connection.
const proxyProtocol = "proxyprotocol"

// behindBalancer makes s read headers. It returns l with a header before the
// data of each connection, since load generators send none. The client in the
// header is the one that the backend must see.
func behindBalancer(s *hostproxy.Server, l net.Listener) net.Listener {
	s.ProxyProtocol = &hostproxy.ProxyProtocol{From: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}
	return introducing{l}
}

type introducing struct{ net.Listener }

// Accept implements net.Listener.
func (l introducing) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &introduced{Conn: c, header: "PROXY TCP4 127.0.0.1 127.0.0.1 4321 80\r\n"}, nil
}

// An introduced connection first yields its header.
type introduced struct {
	net.Conn
	header string
}

// Read implements net.Conn.
func (c *introduced) Read(p []byte) (int, error) {
	if c.header == "" {
		return c.Conn.Read(p)
	}
	n := copy(p, c.header)
	c.header = c.header[n:]
	return n, nil
}

// Unbuffered implements hostproxy.UnbufferedConn.
func (c *introduced) Unbuffered() net.Conn {
	if c.header != "" {
		return nil
	}
	return c.Conn
}
