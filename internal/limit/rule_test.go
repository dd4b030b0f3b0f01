package limit_test

import (
	"context"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/limit"
)

func TestAForeignLimiterGetsAnIPv4AddressOrAnIPv6Prefix(t *testing.T) {
	for client, want := range map[string]string{
		"192.0.2.1":            "192.0.2.1",
		"::ffff:192.0.2.1":     "192.0.2.1",
		"64:ff9b::192.0.2.1":   "192.0.2.1",
		"2002:c000:201::1":     "192.0.2.1",
		"2001:db8:1:2:3:4:5:6": "2001:db8:1:2::",
		"2001:db8:1:2::":       "2001:db8:1:2::",
		"fe80::1%eth0":         "fe80::",
		"2002:c000:201:7:8::1": "2002:c000:201:7::",
		"0.0.0.0":              "0.0.0.0",
		"":                     "::",
	} {
		t.Run(client, func(t *testing.T) {
			var asked netip.Addr
			r, err := limit.NewForeignRule(limit.Spec{Config: limit.Config{Rate: 1}}, func(_ context.Context, a netip.Addr, _ string) (limit.Decision, error) {
				asked = a
				return limit.Decision{OK: true}, nil
			}, func(error) {})
			require.NoError(t, err)
			addr, _ := netip.ParseAddr(client)
			r.Take(limit.Subject{Client: addr}, time.Now())
			assert.Equal(t, want, asked.String())
		})
	}
}

func TestPeekDoesNotCallAForeignLimiter(t *testing.T) {
	r, err := limit.NewForeignRule(limit.Spec{Config: limit.Config{Rate: 1}}, func(context.Context, netip.Addr, string) (limit.Decision, error) { panic("asked") }, nil)
	require.NoError(t, err)
	_, known := r.Peek(limit.Subject{}, time.Now())
	assert.False(t, known)
	r, err = limit.NewRule(limit.Spec{Config: limit.Config{Rate: 1}})
	require.NoError(t, err)
	d, known := r.Peek(limit.Subject{}, time.Now())
	assert.True(t, known && d.OK)
}

func TestALimiterThatCallsGoexitLeaksNoSlot(t *testing.T) {
	r, err := limit.NewForeignRule(limit.Spec{Config: limit.Config{Rate: 1}, MaxInFlight: 1}, func(context.Context, netip.Addr, string) (limit.Decision, error) {
		runtime.Goexit()
		return limit.Decision{}, nil
	}, nil)
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() { r.Take(limit.Subject{}, time.Now()) })
	wg.Wait()
	assert.Zero(t, r.InFlight(limit.Subject{}))
}
