package e2e_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
)

func TestAnAttemptKnowsWhetherItsRequestHasArrived(t *testing.T) {
	began := make(chan bool, 2)
	overEachLane(t, good, func(t *testing.T, s *site) {
		c := s.dial(t)
		require.Equal(t, 200, c.Do(get).StatusCode)
		assert.True(t, <-began)
		c.Send("POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n")
		assert.False(t, <-began)
		require.Equal(t, 200, c.Do("0\r\n\r\n").StatusCode)
		assert.True(t, s.record(t, 1).Timeline[0].Whole)
		assert.False(t, s.record(t, 2).Timeline[0].Whole)
	}, func(s *site) {
		s.router.BeginAttempt = func(b *hostproxy.Beginning) { began <- b.Attempt.Whole }
	})
}
