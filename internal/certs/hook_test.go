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

// A hook may wait for ever for one tenant's lock: it is asked about that one
// again and again.
func TestAHostForWhichTheHookHangsLeavesItToOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release, w := make(chan struct{}), newWishes()
		w.failing(func(pattern string) error {
			if pattern == "bad.example.com" {
				<-release
			}
			return nil
		})
		o := with(newIssuer(t, "ca", day(90)))
		o.Choose = w.choose
		m, r := start(t, o, "bad.example.com")
		for range 100 { // as many tries
			time.Sleep(10 * time.Minute)
			m.ReloadTLS()
		}
		assert.Equal(t, 1, w.count("bad.example.com"), "one call at a time")
		r.add("good.example.com")
		time.Sleep(time.Second)
		s := status(t, m, "good.example.com")
		assert.Equal(t, certs.Valid, s.State, "%v", s.Err)

		close(release)
		time.Sleep(10 * time.Minute)
		s = status(t, m, "bad.example.com")
		assert.Equal(t, certs.Valid, s.State, "%v", s.Err)
	})
}
