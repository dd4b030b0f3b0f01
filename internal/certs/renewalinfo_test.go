package certs_test

import (
	"context"
	"crypto/x509"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An adviser is a fakeIssuer that has renewal information for its certificates,
// and asks not to be asked again for a month.
type adviser struct {
	*fakeIssuer
	revoked atomic.Bool
	asked   atomic.Int64
}

func (a *adviser) info() acme.RenewalInfo {
	var info acme.RenewalInfo
	at := time.Now().Add(day(50))
	if a.revoked.Load() {
		at = time.Now().Add(-time.Hour)
	}
	info.SuggestedWindow.Start, info.SuggestedWindow.End = at, at.Add(time.Minute)
	info.SelectedTime = at
	later := time.Now().Add(day(30))
	info.RetryAfter = &later
	return info
}

func (a *adviser) Issue(ctx context.Context, csr *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	issued, err := a.fakeIssuer.Issue(ctx, csr)
	if err == nil {
		a.revoked.Store(false)
		info := a.info()
		issued.Metadata = acme.Certificate{RenewalInfo: &info}
	}
	return issued, err
}

func (a *adviser) GetRenewalInfo(context.Context, certmagic.Certificate) (acme.RenewalInfo, error) {
	a.asked.Add(1)
	return a.info(), nil
}

// If a CA revokes certificates a minute after its last answer, that is noticed
// before a month is over, whatever it said about the next question.
func TestRenewalInformationIsAskedForEverySixHours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := &adviser{fakeIssuer: newIssuer(t, "ca", day(90))}
		o := with(ca)
		storage := newMemStorage()
		o.Storage = storage
		m, _ := start(t, o, "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		time.Sleep(6*time.Hour + time.Minute)
		assert.Equal(t, int64(1), ca.asked.Load(), "what came with the certificate is clamped")
		time.Sleep(6 * time.Hour)
		assert.Equal(t, int64(2), ca.asked.Load(), "and so is what came later")
		require.NoError(t, m.Close())

		again, _ := start(t, o, "a.example.com")
		require.NoError(t, again.Await(t.Context()))
		ca.revoked.Store(true)
		time.Sleep(6*time.Hour + time.Minute)
		assert.Len(t, ca.issued(), 2)
		time.Sleep(day(2))
		assert.Len(t, ca.issued(), 2)
		assert.LessOrEqual(t, ca.asked.Load(), int64(13))
	})
}
