package certs

import (
	"crypto/tls"
	"encoding/base64"
	"net/http"

	"github.com/hostproxy/hostproxy/internal/header"
)

// The fields of RFC 9440.
const (
	clientCert      = "Client-Cert"
	clientCertChain = "Client-Cert-Chain"
)

// SetClientCert sets the headers of RFC 9440, 2 in h: the certificate that the
// client has proved on the connection, and the chain that it sent. Values from
// the client itself are removed in any case. A certificate that was not
// verified counts as none.
func SetClientCert(h http.Header, state *tls.ConnectionState) {
	header.Drop(h, clientCert)
	header.Drop(h, clientCertChain)
	if state == nil || len(state.VerifiedChains) == 0 {
		return
	}
	h[clientCert] = []string{byteSequence(state.PeerCertificates[0].Raw)}
	for _, c := range state.PeerCertificates[1:] {
		h.Add(clientCertChain, byteSequence(c.Raw))
	}
}

// byteSequence encodes b as RFC 9651, 4.1.8.
func byteSequence(b []byte) string { return ":" + base64.StdEncoding.EncodeToString(b) + ":" }
