package e2e_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A teller answers each request with its path and body, but /slow only after a
// value on answer.
type teller struct{ arrived, answer chan struct{} }

func newTeller() teller { return teller{make(chan struct{}, 1), make(chan struct{})} }

func (l teller) serve(c *proxytest.BackendConn) {
	for {
		q, err := c.ReadRequest()
		if err != nil {
			return
		}
		if q.URL.Path == "/slow" {
			l.arrived <- struct{}{}
			if !c.Wait(l.answer) {
				return
			}
		}
		if c.Send("HTTP/1.1 200 OK\r\n"+sized(q.URL.Path+" "+string(q.Content))) != nil {
			return
		}
	}
}

// overLanesSlowly runs check in parallel on a site with a teller for each lane.
func overLanesSlowly(t *testing.T, check func(*testing.T, *site, teller)) {
	t.Helper()
	proxytest.NoLeaks(t)
	for _, l := range lanes {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			tell := newTeller()
			check(t, newSite(t, l, tell.serve), tell)
		})
	}
}

func TestRequestsThatAClientSendsWhileItWaitsAreAnsweredNext(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	overLanesSlowly(t, func(t *testing.T, s *site, tell teller) {
		c := s.dial(t)
		c.Send(request("GET /slow", "\r\n"))
		<-tell.arrived
		dawdle(moment)
		post := request("POST /1", "Content-Length: 5\r\n\r\nhello")
		c.Send(post[:1])
		dawdle(moment / 3)
		c.Send(post[1:9])
		dawdle(moment / 3)
		pad := "X-Pad: " + strings.Repeat("x", 5000) + "\r\n\r\n"
		c.Send(post[9:] + request("GET /slow", "\r\n") + request("GET /3", pad) + request("GET /4", "\r\n"))
		dawdle(moment)
		tell.answer <- struct{}{}
		<-tell.arrived
		dawdle(moment) // some of the following bytes are still unread
		tell.answer <- struct{}{}
		for _, want := range []string{"/slow ", "/1 hello", "/slow ", "/3 ", "/4 "} {
			a := c.Response("GET")
			assert.Equal(t, 200, a.StatusCode)
			assert.Equal(t, want, string(a.Content))
		}
	})
}

func TestAClientThatLeavesDuringItsNextRequestIs499(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	overLanesSlowly(t, func(t *testing.T, s *site, tell teller) {
		c := s.dial(t)
		c.Send(request("GET /slow", "\r\n"))
		<-tell.arrived
		dawdle(moment)
		c.Send(request("GET /slow", "\r\n"))
		dawdle(moment)
		tell.answer <- struct{}{}
		assert.Equal(t, "/slow ", string(c.Response("GET").Content))
		<-tell.arrived
		dawdle(moment)
		require.NoError(t, c.Close())
		assert.Equal(t, 200, s.record(t, 1).Status)
		assert.Equal(t, 499, s.record(t, 2).Status)
	})
}
