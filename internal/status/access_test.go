package status_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/internal/status"
)

func TestStrangersDoNotGetThePage(t *testing.T) {
	const local, stranger = "127.0.0.1:5000", "203.0.113.7:5000"
	var listed, named, known, peer status.Arrival
	peer.ListedPeer, peer.Named = true, true
	listed.Listed = true
	named.Listed, named.Named = true, true
	known.Authenticated = true
	verified := &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{{}}}}
	for name, tt := range map[string]struct {
		remote, host, header string
		arrival              status.Arrival
		tls                  *tls.ConnectionState
		want                 string // text of the refusal; "" means that it passes
	}{
		"this machine":                         {remote: local, host: "localhost:9000"},
		"this machine, over IPv6":              {remote: "[::1]:5000", host: "[::1]:9000"},
		"this machine, by an IPv4 in IPv6":     {remote: "[::ffff:127.0.0.1]:5000", host: "127.0.0.1:9000"},
		"this machine, by a name without dots": {remote: local, host: "proxy:9000"},
		"this machine, by .localhost":          {remote: local, host: "status.localhost"},
		"this machine, by .internal":           {remote: local, host: "proxy.internal"},
		"HTTP/1.0 without a host":              {remote: local},
		"a unix socket":                        {remote: "@", host: "x"},
		"another machine":                      {remote: stranger, host: "localhost", want: "to clients on this machine only"},
		"a private network":                    {remote: "10.0.0.7:5000", host: "10.0.0.1", want: "to clients on this machine only"},
		"a client without an address":          {remote: "", host: "localhost", want: "to clients on this machine only"},
		"a client with a strange address":      {remote: "127.0.0.1.evil.test:1", host: "localhost", want: "to clients on this machine only"},
		"a test's address, with a server":      {remote: "192.0.2.1:1234", host: "localhost", want: "to clients on this machine only"},
		"DNS rebinding":                        {remote: local, host: "evil.example.com:9000", want: `the host "evil.example.com:9000" is a public name`},
		"DNS rebinding, a final dot":           {remote: local, host: "evil.example.com.", want: "is a public name"},
		"a host that is an attack":             {remote: local, host: "a\"b\n<script>", want: `the host "a\"b\n<script>" is a public name`},
		"a host that is long":                  {remote: local, host: strings.Repeat("a.", 5000), want: "is a public name"},
		"a proxy on this machine":              {remote: local, host: "localhost", header: "X-Forwarded-For", want: "has the header X-Forwarded-For"},
		"a tunnel on this machine":             {remote: local, host: "localhost", header: "Cf-Connecting-Ip", want: "has the header Cf-Connecting-Ip"},
		"a proxy that sends only the scheme":   {remote: local, host: "localhost", header: "X-Forwarded-Proto", want: "has the header X-Forwarded-Proto"},
		"a proxy that sends only a prefix":     {remote: local, host: "localhost", header: "X-Forwarded-Prefix", want: "has the header X-Forwarded-Prefix"},
		"a proxy with a header that is long":   {remote: local, host: "localhost", header: "X-Forwarded-" + strings.Repeat("x", 5000), want: "has the header X-Forwarded-Xxx"},
		"another name for the client":          {remote: local, host: "localhost", header: "X-Client-Ip", want: "has the header X-Client-Ip"},
		"an address taken from a header":       {remote: "127.0.0.1", host: "localhost", header: "X-Real-Ip", want: "has the header X-Real-Ip"},

		"credentials":                        {remote: stranger, host: "status.example.com", arrival: known},
		"a client certificate":               {remote: stranger, host: "status.example.com", tls: verified},
		"TLS without a client certificate":   {remote: stranger, host: "status.example.com", tls: &tls.ConnectionState{}, want: "to clients on this machine only"},
		"an address on the list":             {remote: stranger, host: "10.0.0.1:9000", arrival: listed},
		"on the list, behind a proxy":        {remote: local, host: "10.0.0.1:9000", arrival: listed, header: "X-Forwarded-For"},
		"on the list, for the route's name":  {remote: stranger, host: "status.example.com", arrival: named},
		"a peer on the list":                 {remote: local, host: "status.example.com", arrival: peer},
		"a peer on the list, by a proxy":     {remote: local, host: "status.example.com", arrival: peer, header: "X-Forwarded-For", want: "Guard.Allow lists the proxy, not its client"},
		"a peer on the list, rebinding":      {remote: local, host: "evil.example.com", arrival: status.Arrival{ListedPeer: true}, want: "is a public name"},
		"on the list, rebinding":             {remote: stranger, host: "evil.example.com", arrival: listed, want: "is a public name"},
		"in a route for a name, not listed":  {remote: stranger, host: "status.example.com", arrival: status.Arrival{Named: true}, want: "to clients on this machine only"},
		"this machine, for the route's name": {remote: local, host: "status.example.com", arrival: status.Arrival{Named: true}, want: "is a public name"},
	} {
		t.Run(name, func(t *testing.T) {
			served := false
			h := status.Restrict(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served = true }), func(*http.Request) status.Arrival { return tt.arrival })
			q := httptest.NewRequest("GET", "/", nil)
			q = q.WithContext(context.WithValue(q.Context(), http.LocalAddrContextKey, net.TCPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:9000"))))
			q.RemoteAddr, q.Host, q.TLS = tt.remote, tt.host, tt.tls
			if tt.header != "" {
				q.Header.Set(tt.header, "127.0.0.1")
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, q)
			assert.Equal(t, tt.want == "", served)
			if tt.want == "" {
				return
			}
			assert.Equal(t, http.StatusForbidden, w.Code)
			assert.Contains(t, w.Body.String(), tt.want)
			assert.Contains(t, w.Body.String(), "in front of hostproxy.StatusHandler")
			assert.Less(t, w.Body.Len(), 1000)
			assert.Equal(t, "text/plain; charset=utf-8", w.Header().Get("Content-Type"))
			assert.Equal(t, "nosniff", w.Header().Get("X-Content-Type-Options"))
			assert.Contains(t, w.Header().Get("Content-Security-Policy"), "default-src 'none'")
			assert.Equal(t, "no-store", w.Header().Get("Cache-Control"))
		})
	}
}
