package e2e_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// The handler lane reuses memory for later requests. Values that a program
// keeps of a request must not change.

type numberKey struct{}

// withNumber is middleware around r that puts the number in a header into the
// request's context.
func withNumber(r http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.ServeHTTP(w, q.WithContext(context.WithValue(q.Context(), numberKey{}, q.Header.Get("Number"))))
	})
}

func TestTheContextThatADialKeepsStaysThatOfItsRequest(t *testing.T) {
	proxytest.NoLeaks(t)
	var kept context.Context
	u := hostproxy.To(proxytest.NewBackend(t, proxytest.Reply(ok)).Addr())
	u.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		kept = ctx
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	r := new(hostproxy.Router)
	r.Handle("a.test", u)
	c := proxytest.Dial(t, proxytest.StartPlain(t, &hostproxy.Server{Router: r, Handler: withNumber(r)}).Plain)
	for i := range 20 {
		require.Equal(t, 200, c.Do(fmt.Sprintf("GET / HTTP/1.1\r\n"+host+"Number: %d\r\n\r\n", i)).StatusCode)
		assert.Equal(t, "0", kept.Value(numberKey{}), "after request %d", i)
	}
}

func TestARequestThatAHandlerKeepsStillHasItsIdentifier(t *testing.T) {
	proxytest.NoLeaks(t)
	u := hostproxy.To(proxytest.NewBackend(t, proxytest.Reply(ok)).Addr())
	var mu sync.Mutex
	kept := make(map[string]*http.Request)
	r := &hostproxy.Router{RequestID: hostproxy.RequestIDHeader{Name: "X-Request-Id", Respond: true}}
	r.Handle("a.test", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		mu.Lock()
		kept[hostproxy.RequestID(q)] = q
		mu.Unlock()
		u.ServeHTTP(w, q)
	}))
	r.Handle("b.test", u)
	c := proxytest.Dial(t, proxytest.StartPlain(t, &hostproxy.Server{Router: r, Handler: withNumber(r)}).Plain)
	for range 10 {
		id := c.Do(get).Header.Get("X-Request-Id")
		require.Equal(t, 200, c.Do("GET / HTTP/1.1\r\nHost: b.test\r\n\r\n").StatusCode)
		mu.Lock()
		assert.Equal(t, id, hostproxy.RequestID(kept[id]))
		mu.Unlock()
	}
	assert.Len(t, kept, 10)
}

func TestRecordsOfTheHandlerLaneSayNothingOfAnotherRequest(t *testing.T) {
	proxytest.NoLeaks(t)
	records := make(chan hostproxy.Exchange, 1)
	r := &hostproxy.Router{Observe: func(x *hostproxy.Exchange) { records <- *x }}
	r.Handle("a.test", hostproxy.To(proxytest.NewBackend(t, proxytest.Reply(ok)).Addr()))
	r.Handle("b.test", hostproxy.To(proxytest.Refused(t)))
	c := proxytest.Dial(t, proxytest.StartPlain(t, &hostproxy.Server{Router: r, Handler: withNumber(r)}).Plain)
	for range 5 {
		c.Do("GET /long?q HTTP/1.1\r\n" + host + "User-Agent: u\r\nReferer: r\r\n\r\n")
		full := <-records
		assert.Equal(t, []any{"/long", "q", "u", "r", 200, int64(2)},
			[]any{full.Path, full.Query, full.UserAgent, full.Referer, full.Status, full.ResponseBytes})
		c.Do("GET / HTTP/1.1\r\nHost: b.test\r\n\r\n")
		failed := <-records
		assert.Error(t, failed.Err)
		c.Do("GET /none HTTP/1.1\r\nHost: c.test\r\n\r\n")
		none := <-records
		assert.Equal(t, []any{"/none", "", "", "", "", "", 404, 0},
			[]any{none.Path, none.Query, none.UserAgent, none.Referer, none.Pattern, none.Target, none.Status, none.Attempts})
		assert.NoError(t, none.Err)
		assert.Empty(t, none.Retried)
		assert.Zero(t, none.FirstByte)
	}
}
