package e2e_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// tenancy lets Begin set the tenant and the session, regardless of the
// client's.
func tenancy(s *site) {
	s.router.Begin = func(b *hostproxy.Beginning) {
		b.SetHeader("X-Tenant", "verified")
		b.SetHeader("Cookie", "t=1; s=verified")
		b.RemoveHeader("X-Gone")
	}
}

// forgery returns the i-th request of a client that forges the headers that
// Begin replaces.
func forgery(i int) string {
	return fmt.Sprintf("GET / HTTP/1.1\r\nHost: a.test\r\nX-Tenant: forged%d\r\nX_Tenant: forged%[1]d\r\nX-Gone: forged%[1]d\r\nCookie: s=forged%[1]d\r\n\r\n", i)
}

// Limits count by the headers of Begin and not of the client: in the Router and
// in the Upstream, in each lane.
func TestALimitCountsByWhatBeginHasSet(t *testing.T) {
	t.Parallel()
	for name, by := range map[string]hostproxy.LimitKey{
		"header set":     {Header: "X-Tenant"},
		"cookie set":     {Cookie: "s"},
		"header removed": {Header: "X-Gone"}, // then the client counts
		"func":           {Func: func(q *http.Request) string { return q.Header.Get("X-Tenant") }},
	} {
		for place, set := range limited(hostproxy.RateLimit{Rate: 1e-6, Burst: 2, By: by}) {
			t.Run(name+" "+place, func(t *testing.T) {
				overEachLane(t, good, func(t *testing.T, s *site) {
					c := s.dial(t)
					for i, want := range []int{200, 200, 429, 429} {
						assert.Equal(t, want, c.Do(forgery(i)).StatusCode)
					}
				}, tenancy, set)
			})
		}
	}
}

// The same applies to the choice of a target by hash.
func TestTargetsAreChosenByWhatBeginHasSet(t *testing.T) {
	t.Parallel()
	second, third := proxytest.NewBackend(t, good), proxytest.NewBackend(t, good)
	for name, key := range map[string]hostproxy.HashKey{"header set": {Header: "X-Tenant"}, "cookie set": {Cookie: "s"}, "header removed": {Header: "X-Gone"}} {
		t.Run(name, func(t *testing.T) {
			overEachLane(t, good, func(t *testing.T, s *site) {
				c := s.dial(t)
				targets := make(map[string]bool)
				for i := range 20 {
					require.Equal(t, 200, c.Do(forgery(i)).StatusCode)
					targets[s.record(t, i+1).Target] = true
				}
				assert.Len(t, targets, 1)
			}, tenancy, func(s *site) {
				s.upstream = hostproxy.To(s.backend.Addr(), second.Addr(), third.Addr())
				s.upstream.Policy, s.upstream.HashBy = hostproxy.ConsistentHash, key
			})
		})
	}
}

// If Begin sets the sticky cookie, the client gets that target, in each lane.
func TestBeginMayChooseTheTargetOfASession(t *testing.T) {
	second := proxytest.NewBackend(t, good)
	overEachLane(t, good, func(t *testing.T, s *site) {
		first := s.dial(t).Do("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
		cookie, _, _ := strings.Cut(first.Header.Get("Set-Cookie"), ";")
		require.NotEmpty(t, cookie)
		at := s.record(t, 1).Target
		c := s.dial(t)
		for i := range 10 {
			require.Equal(t, 200, c.Do("GET / HTTP/1.1\r\nHost: a.test\r\nX-Session: "+cookie+"\r\nCookie: sticky=forged\r\n\r\n").StatusCode)
			assert.Equal(t, at, s.record(t, i+2).Target)
		}
	}, func(s *site) {
		s.router.Begin = func(b *hostproxy.Beginning) {
			if v := b.Header("X-Session"); v != "" {
				b.SetHeader("Cookie", v)
			}
		}
		s.upstream = hostproxy.To(s.backend.Addr(), second.Addr())
		s.upstream.Policy, s.upstream.Sticky = hostproxy.RoundRobin, &hostproxy.Sticky{Cookie: "sticky", Key: []byte("0123456789abcdef0123456789abcdef")}
	})
}
