package certs

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// maxBundle is how many certificates of a chain in storage are looked at.
const maxBundle = 16

// A flaw is something about a stored chain that clients may refuse. It is
// damage unless the issuer itself makes chains like that.
type flaw string

const (
	flawText  flaw = "text"  // there is text behind the certificates, or a block is cut in two
	flawLinks flaw = "links" // a certificate is not signed by the next
	flawDates flaw = "dates" // the issuing certificate has expired
)

// A bundle is a certificate with the chain that is sent along.
type bundle struct {
	certs []*x509.Certificate // the host's first
	flaws []flaw
}

// readBundle decodes PEM text. The error is about text that cannot be used,
// whoever made it.
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
	// pem.Decode steps over what is no whole block. Text before one is allowed
	// (RFC 7468, 2).
	if blocks != bytes.Count(text, []byte("-----BEGIN ")) || len(bytes.TrimSpace(rest)) > 0 {
		b.flaws = append(b.flaws, flawText)
	}
	b.follow()
	return b, nil
}

// follow goes along the chain.
func (b *bundle) follow() {
	for i, cert := range b.certs[:len(b.certs)-1] {
		if !signedBy(cert, b.certs[i+1]) {
			b.flaws = append(b.flaws, flawLinks)
			break
		}
	}
	// Further up an expired certificate is a cross-signature that clients do
	// without.
	if len(b.certs) > 1 && time.Now().After(b.certs[1].NotAfter) && time.Now().Before(b.certs[0].NotAfter) {
		b.flaws = append(b.flaws, flawDates)
	}
}

// whole reports whether the chain ends in a root, so that nothing can be
// missing.
func (b *bundle) whole() bool {
	last := b.certs[len(b.certs)-1]
	return signedBy(last, last)
}

// signedBy reports whether cert carries the signature of issuer. Of algorithms
// that are too old to be checked it believes the name.
func signedBy(cert, issuer *x509.Certificate) bool {
	if !bytes.Equal(cert.RawIssuer, issuer.RawSubject) {
		return false
	}
	err := issuer.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature)
	var old x509.InsecureAlgorithmError
	return err == nil || errors.As(err, &old) || errors.Is(err, x509.ErrUnsupportedAlgorithm)
}
