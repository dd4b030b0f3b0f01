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

// SetClientCert puts the certificate that a client has proved on the connection
// into h, and the chain it sent with it, as RFC 9440, 2 wants them. What the
// client wrote there itself goes, whether or not it has a certificate; one that
// nobody has verified counts as none.
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
