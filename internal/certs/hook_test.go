package certs_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

// keyless is an issuer of the program that is not ready to be used.
type keyless struct{ *fakeIssuer }

func (keyless) IssuerKey() string { panic("oops") }

func TestAnIssuerByTheHookWhoseKeyPanicsFailsItsHostOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := with(newIssuer(t, "ca", day(90)))
		o.Choose = chosen(map[string]certs.Choice{"bad.example.com": {Issuer: keyless{}}})
		m, _ := start(t, o, "bad.example.com", "good.example.com")
		require.NoError(t, m.Await(t.Context(), "good.example.com"))
		time.Sleep(time.Second)
		s := status(t, m, "bad.example.com")
		assert.Equal(t, certs.Failed, s.State)
		assert.ErrorContains(t, s.Err, "issuer panics: oops")
	})
}
