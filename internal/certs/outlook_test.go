package certs_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestAnOutlookNamesTheCertificateThatAHandshakeGets(t *testing.T) {
	own, _ := proxytest.Certificate(t, "own.example.com")
	synctest.Test(t, func(t *testing.T) {
		ca, w := newIssuer(t, "ca", day(90)), newWishes()
		ca.hook(func(_ context.Context, host string) error {
			if host == "bad.example.com" {
				return errors.New("no such zone")
			}
			return nil
		})
		w.set("own.example.com", certs.Choice{Certificate: &own})
		w.set("none.example.com", certs.Choice{None: true})
		o := with(ca)
		o.Choose = w.choose
		m, _ := start(t, o, "a.example.com", "own.example.com", "none.example.com", "bad.example.com", "*.w.example.com", "x.w.example.com", "*.test", "*.demand.example.com")
		require.NoError(t, m.Await(t.Context(), "a.example.com", "own.example.com", "*.w.example.com"))
		time.Sleep(time.Second)
		for host, want := range map[string]struct{ shows, state, about string }{
			"a.example.com":    {"a.example.com", certs.Valid, "a certificate of its own"},
			"own.example.com":  {"own.example.com", certs.Static, "a certificate from TLS.Host"},
			"none.example.com": {"", "", "no certificate: TLS.Host set NoCertificate; handshakes are refused"},
			"bad.example.com":  {"", certs.Failed, "no certificate: the last attempt failed"},
			"x.w.example.com":  {"*.w.example.com", certs.Valid, "the certificate of *.w.example.com"},
			"y.w.example.com":  {"*.w.example.com", certs.Valid, "the certificate of *.w.example.com"},
			"y.test":           {"y.test", "", "a certificate that the local CA makes in the handshake"},
			"other.org":        {"", "", "no certificate: no route serves the host"},
		} {
			issued := len(ca.issued())
			p := m.Outlook(host)
			assert.Equal(t, want.state, p.Status.State, host)
			assert.Equal(t, want.about, p.About, host)
			assert.Len(t, ca.issued(), issued, "it orders nothing")
			leaf, err := shake(t, m, host)
			if want.shows == "" {
				assert.Error(t, err, host)
				continue
			}
			require.NoError(t, err, host)
			assert.Equal(t, []string{want.shows}, leaf.DNSNames, host)
			if p.Status.Serial != nil {
				assert.Equal(t, leaf.SerialNumber, p.Status.Serial, host)
			}
		}
	})
}

func TestAnOutlookStartsNoOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		asked := 0
		o := with(ca)
		o.Lazy = true
		o.Policy = func(context.Context, string) error { asked++; return nil }
		m, r := start(t, o, "lazy.example.com", "*")
		time.Sleep(time.Second)
		assert.Equal(t, "no certificate yet: the handshake waits for it", m.Outlook("lazy.example.com").About)
		assert.Equal(t, certs.Pending, m.Outlook("lazy.example.com").Status.State)
		assert.Equal(t, "a certificate on demand, if HostPolicy allows it", m.Outlook("a.example.org").About)
		r.assign([]string{"new.example.com"})
		assert.Equal(t, "no certificate yet: the route is new", m.Outlook("new.example.com").About)
		time.Sleep(time.Minute)
		assert.Empty(t, ca.issued())
		assert.Zero(t, asked)
	})
}

func TestOrdersSaysWhetherANameWouldGetACertificateOfItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "ca", day(90))
		m, _ := start(t, with(ca), "*.w.example.com")
		require.NoError(t, m.Await(t.Context()))
		for name, want := range map[string]bool{"new.example.com": true, "*.new.example.com": true, "*": false, "x.w.example.com": false,
			"*.localhost": false, "nas.test": true} {
			assert.Equal(t, want, m.Orders(name), name)
		}
		assert.Equal(t, []string{"*.w.example.com"}, ca.issued())
	})
}
