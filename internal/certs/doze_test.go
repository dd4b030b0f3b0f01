package certs_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

// A database is a policy that can be down.
type database struct {
	policy
	mu   sync.Mutex
	down bool
}

func (d *database) allow(ctx context.Context, host string) error {
	err := d.policy.allow(ctx, host)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.down {
		return errors.New("connection refused")
	}
	return err
}

func (d *database) fails(down bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.down = down
}

// onDatabase returns options with a storage that outlives a Manager.
func onDatabase(t testing.TB, d *database, ca *fakeIssuer) certs.Options {
	t.Helper()
	o := with(ca)
	o.Policy, o.Storage = d.allow, newMemStorage()
	return o
}

// After a restart, the certificate is due, valid for another day or two, and
// not requested by any client.
func TestADueHostOnDemandIsServedAfterARestartEvenIfThePolicyFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, ca := new(database), newIssuer(t, "ca", day(6))
		o := onDatabase(t, d, ca)
		m, _ := startOnce(t, o, "*")
		_, err := shake(t, m, "customer1.example.com")
		require.NoError(t, err)
		time.Sleep(day(4.5)) // due since day 4
		require.NoError(t, m.Close())

		d.fails(true)
		asked := d.total()
		m, _ = start(t, o, "*")
		time.Sleep(time.Hour)
		assert.Equal(t, asked, d.total(), "no client has asked for it")
		s, ok := m.Status("customer1.example.com")
		require.True(t, ok, "it is not given up")
		assert.Equal(t, certs.Valid, s.State)
		for range 3 {
			_, err = shake(t, m, "customer1.example.com")
			require.NoError(t, err)
			time.Sleep(time.Hour)
		}
		d.fails(false)
		time.Sleep(time.Hour + 15*time.Minute) // the longest pause after a policy that cannot tell
		assert.Equal(t, 2, ca.count("customer1.example.com"), "a client has asked")
	})
}

func TestAHostOnDemandIsRenewedByTheFirstHandshakeSinceItIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, ca := new(database), newIssuer(t, "ca", day(6))
		m, _ := start(t, onDatabase(t, d, ca), "*")
		_, err := shake(t, m, "customer1.example.com")
		require.NoError(t, err)
		for n := 2; n < 5; n++ {
			time.Sleep(day(5))
			require.Equal(t, n-1, ca.count("customer1.example.com"), "no client has asked")
			old, err := shake(t, m, "customer1.example.com")
			require.NoError(t, err, "it is good")
			time.Sleep(time.Minute)
			require.Equal(t, n, ca.count("customer1.example.com"))
			s, _ := m.Status("customer1.example.com")
			require.NotEqual(t, old.SerialNumber, s.Serial)
		}
	})
}

func TestAnExpiredHostOnDemandIsGivenUpIfNoClientAskedForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, ca := new(database), newIssuer(t, "ca", day(6))
		o := onDatabase(t, d, ca)
		m, _ := startOnce(t, o, "*")
		_, err := shake(t, m, "customer1.example.com")
		require.NoError(t, err)
		time.Sleep(day(3))
		require.NoError(t, m.Close())
		m, _ = start(t, o, "*")
		time.Sleep(day(3) - time.Minute)
		require.Len(t, m.Statuses(), 1)
		time.Sleep(2 * time.Minute)
		assert.Empty(t, m.Statuses())
		assert.Equal(t, 1, ca.count("customer1.example.com"))
		assert.Equal(t, 1, d.total())
	})
}

// If its renewal fails, it is retried while clients ask; the host stays while
// its certificate is good.
func TestAHostOnDemandWhoseRenewalFailsIsServedUntilItExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, ca := new(database), newIssuer(t, "ca", day(90))
		m, _ := start(t, onDatabase(t, d, ca), "*")
		_, err := shake(t, m, "customer1.example.com")
		require.NoError(t, err)
		ca.hook(failing("no such host"))
		time.Sleep(day(61))
		_, err = shake(t, m, "customer1.example.com")
		require.NoError(t, err)
		time.Sleep(day(20)) // no client asks for it meanwhile
		assert.Less(t, ca.count("customer1.example.com"), 5)
		ca.unhook()
		d.fails(true)
		_, err = shake(t, m, "customer1.example.com")
		require.NoError(t, err, "it is good for days yet")
		d.fails(false)
		time.Sleep(time.Hour + 15*time.Minute)
		s, ok := m.Status("customer1.example.com")
		require.True(t, ok)
		assert.Equal(t, certs.Valid, s.State)
		assert.Greater(t, time.Until(s.NotAfter), day(80))
	})
}

// Another instance has obtained the certificate since this one read storage.
func TestAnErrorOfThePolicyKeepsTheCertificateInStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, ca := new(database), newIssuer(t, "ca", day(6))
		o := onDatabase(t, d, ca)
		a, _ := start(t, o, "*")
		b, _ := start(t, o, "*")
		time.Sleep(time.Hour)
		_, err := shake(t, a, "customer1.example.com")
		require.NoError(t, err)

		d.fails(true)
		_, err = shake(t, b, "customer1.example.com")
		require.NoError(t, err)
		s, ok := b.Status("customer1.example.com")
		require.True(t, ok)
		assert.True(t, s.OnDemand)
		_, err = shake(t, b, "customer2.example.com")
		require.Error(t, err, "there is none in storage")
		_, err = shake(t, b, "stranger.example.com")
		require.Error(t, err)
		assert.Len(t, b.Statuses(), 1)

		time.Sleep(day(7)) // too late
		_, err = shake(t, b, "customer1.example.com")
		require.NoError(t, err, "an expired certificate is served if there is no other")
		require.NoError(t, b.Close())
		c, _ := start(t, o, "*")
		time.Sleep(time.Minute)
		_, err = shake(t, c, "customer1.example.com")
		require.Error(t, err)
		assert.Equal(t, 1, ca.count("customer1.example.com"), "nothing is ordered unless the policy allows it")
	})
}

// All of them are due, and no client has asked for any.
func TestARestartWithManyDueHostsDoesNotAskThePolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 60
		d, ca := new(database), newIssuer(t, "ca", day(6))
		o := onDatabase(t, d, ca)
		m, _ := startOnce(t, o, "*")
		for k := range n {
			_, err := shake(t, m, fmt.Sprintf("customer%d.example.com", k))
			require.NoError(t, err)
		}
		time.Sleep(day(4.5))
		require.NoError(t, m.Close())
		asked := d.total()
		m, _ = start(t, o, "*")
		time.Sleep(time.Minute)
		require.Len(t, m.Statuses(), n)
		assert.Equal(t, asked, d.total())

		for k := range 3 {
			_, err := shake(t, m, fmt.Sprintf("customer%d.example.com", k))
			require.NoError(t, err)
		}
		time.Sleep(time.Minute)
		assert.Equal(t, asked+3, d.total(), "once for each that clients have asked for")
		assert.Len(t, ca.issued(), n+3)
	})
}

// A damaged certificate of an earlier process does not prove that the policy
// allows the host.
func TestADamagedCertificateOnDemandIsReplacedOnceAClientAsksAndThePolicyAllowsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, ca := new(database), newIssuer(t, "ca", day(6))
		o := onDatabase(t, d, ca)
		m, _ := startOnce(t, o, "*")
		_, err := shake(t, m, "customer1.example.com")
		require.NoError(t, err)
		require.NoError(t, m.Close())
		o.Storage.(*memStorage).damage(t, ".key")
		asked := d.total()
		m, _ = start(t, o, "*")
		time.Sleep(time.Hour)
		assert.Equal(t, 1, ca.count("customer1.example.com"), "no client has asked for it")
		_, err = shake(t, m, "customer1.example.com")
		require.NoError(t, err)
		assert.Equal(t, asked+1, d.total())
		assert.Equal(t, 2, ca.count("customer1.example.com"))
	})
}

func TestADueHostOnDemandIsRenewedWhenARouteNamesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, ca := new(database), newIssuer(t, "ca", day(6))
		o := onDatabase(t, d, ca)
		m, _ := startOnce(t, o, "*")
		_, err := shake(t, m, "customer1.example.com")
		require.NoError(t, err)
		time.Sleep(day(4.5))
		require.NoError(t, m.Close())
		d.fails(true)
		_, r := start(t, o, "*")
		time.Sleep(time.Hour)
		require.Equal(t, 1, ca.count("customer1.example.com"))
		r.add("customer1.example.com")
		time.Sleep(time.Minute)
		assert.Equal(t, 2, ca.count("customer1.example.com"), "a route needs no policy")
	})
}
