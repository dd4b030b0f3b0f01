package certs

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// maxBundle limits the certificates that are read of a chain in storage.
const maxBundle = 16

// A flaw is something about a stored chain that clients may refuse. It counts
// as damage unless the issuer itself makes such chains.
type flaw string

const (
	flawText  flaw = "text"  // text after the certificates, or a block cut in two
	flawLinks flaw = "links" // a certificate is not signed by the next
	flawDates flaw = "dates" // the issuing certificate has expired
)

// A bundle is a certificate with the chain that is sent with it.
type bundle struct {
	certs []*x509.Certificate // the host's first
	flaws []flaw
}

// readBundle decodes PEM text. It returns an error if the text cannot be used,
// whatever its origin.
func readBundle(text []byte) (*bundle, error) {
	b := new(bundle)
	blocks, rest := 0, text
	for block, more := pem.Decode(rest); block != nil; block, more = pem.Decode(rest) {
		blocks, rest = blocks+1, more
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		if b.certs = append(b.certs, cert); len(b.certs) > maxBundle {
			return nil, fmt.Errorf("the chain has more than %d certificates", maxBundle)
		}
	}
	if len(b.certs) == 0 {
		return nil, errors.New("no certificate")
	}
	if leaf := b.certs[0]; !leaf.NotBefore.Before(leaf.NotAfter) {
		return nil, errors.New("the certificate's NotAfter is not after its NotBefore")
	}
	// pem.Decode skips anything that is not a whole block. Text before a block
	// is allowed (RFC 7468, 2).
	if blocks != bytes.Count(text, []byte("-----BEGIN ")) || len(bytes.TrimSpace(rest)) > 0 {
		b.flaws = append(b.flaws, flawText)
	}
	b.follow()
	return b, nil
}

// follow checks the links of the chain.
func (b *bundle) follow() {
	for i, cert := range b.certs[:len(b.certs)-1] {
		if !signedBy(cert, b.certs[i+1]) {
			b.flaws = append(b.flaws, flawLinks)
			break
		}
	}
	// Further up, an expired certificate is a cross-signature that clients do
	// not need.
	if len(b.certs) > 1 && time.Now().After(b.certs[1].NotAfter) && time.Now().Before(b.certs[0].NotAfter) {
		b.flaws = append(b.flaws, flawDates)
	}
}

// whole reports whether the chain ends in a root, so that no certificate can be
// missing.
func (b *bundle) whole() bool {
	last := b.certs[len(b.certs)-1]
	return signedBy(last, last)
}

// signedBy reports whether cert carries the signature of issuer. If the
// algorithm is too old to be checked, a matching name suffices.
func signedBy(cert, issuer *x509.Certificate) bool {
	if !bytes.Equal(cert.RawIssuer, issuer.RawSubject) {
		return false
	}
	err := issuer.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature)
	var old x509.InsecureAlgorithmError
	return err == nil || errors.As(err, &old) || errors.Is(err, x509.ErrUnsupportedAlgorithm)
}
