package certs_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/internal/certs"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestTheClientsCertificateIsForwardedAndItsOwnCopiesAreNot(t *testing.T) {
	client, _ := proxytest.Certificate(t, "client.example")
	between, _ := proxytest.Certificate(t, "between.example")
	encoded := func(c tls.Certificate) string { return ":" + base64.StdEncoding.EncodeToString(c.Certificate[0]) + ":" }
	shown := []*x509.Certificate{client.Leaf, between.Leaf}
	for _, c := range []struct {
		what        string
		state       *tls.ConnectionState
		cert, chain []string
	}{
		{"plain HTTP", nil, nil, nil},
		{"no certificate", &tls.ConnectionState{}, nil, nil},
		{"one that nobody has verified", &tls.ConnectionState{PeerCertificates: shown}, nil, nil},
		{"one that was verified", &tls.ConnectionState{PeerCertificates: shown, VerifiedChains: [][]*x509.Certificate{shown}},
			[]string{encoded(client)}, []string{encoded(between)}},
	} {
		h := http.Header{"Client-Cert": {"spoofed"}, "Client-Cert-Chain": {"spoofed", "too"}, "Client_cert": {"spoofed"}, "X": {"stays"}}
		certs.SetClientCert(h, c.state)
		assert.Equal(t, c.cert, h["Client-Cert"], c.what)
		assert.Equal(t, c.chain, h["Client-Cert-Chain"], c.what)
		assert.NotContains(t, h, "Client_cert")
		assert.Equal(t, "stays", h.Get("X"))
	}
}
