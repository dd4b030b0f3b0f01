package otel_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// valid matches a traceparent of version 00.
var valid = regexp.MustCompile(`^00-[0-9a-f]{32}-[0-9a-f]{16}-0[0-3]$`)

// FuzzTraceparent checks both lanes. Each request that reaches a target must
// have exactly one traceparent, a valid one, whatever else the client sends.
// Only a trusted peer's trace may be continued.
func FuzzTraceparent(f *testing.F) {
	for _, name := range []string{"Traceparent", "traceparent", "TRACEPARENT", "trace-parent", "trace_parent", "Tracestate", "X\r\ntraceparent", "Connection: traceparent\r\nTraceparent", "traceparent "} {
		f.Add(name, clientParent, clientParent, false)
		f.Add(name, "", "a", true)
		f.Add(name, clientParent+"-extra", "ff"+clientParent[2:], true)
		f.Add(name, strings.ToUpper(clientParent), "01"+clientParent[2:]+"-x", true)
		f.Add(name, clientParent+","+clientParent, "\xff\x00", false)
		f.Add(name, clientParent+"\r\nTransfer-Encoding: chunked\r\n\r\n0\r\ntraceparent: "+clientParent+"\r\n\r\nX", "", false)
		f.Add(name, strings.Repeat("a=b,", 5000), " "+clientParent+"\t", true)
		f.Add(name, "a=\x7f\x80,b=c", clientParent, true)
	}
	fronts, targets := map[bool][]string{}, map[bool]chan [2]http.Header{}
	for _, trusted := range []bool{false, true} {
		// for each kind of peer: a request may arrive after its client has left
		seen := make(chan [2]http.Header, 1000)
		targets[trusted] = seen
		backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			_, _ = io.Copy(io.Discard, q.Body)
			seen <- [2]http.Header{q.Header, q.Trailer}
		}))
		f.Cleanup(backend.Close)
		for _, h := range []bool{false, true} {
			var r hostproxy.Router
			r.Handle("*", hostproxy.To(backend.Listener.Addr().String()))
			peers := "10.0.0.0/8"
			if trusted {
				peers = "127.0.0.0/8"
			}
			traced(f, &r, peers)
			s := &hostproxy.Server{Router: &r}
			if h {
				s.Handler = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { r.ServeHTTP(w, q) })
			}
			fronts[trusted] = append(fronts[trusted], proxytest.StartPlain(f, s).Plain)
		}
	}
	f.Fuzz(func(t *testing.T, name, one, two string, trusted bool) {
		for _, front := range fronts[trusted] {
			reached := 0
			c := proxytest.Dial(t, front)
			c.Send(fmt.Sprintf("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n%s: %s\r\ntraceparent: %s\r\n\r\n", name, one, two))
			// otherwise the server would wait for a body that was announced
			_ = c.Conn.Conn.(*net.TCPConn).CloseWrite()
			assert.NotContains(t, c.Rest(), "HTTP/1.1 500", "no client input makes a hook fail")
			for seen := targets[trusted]; len(seen) > 0; {
				q := <-seen
				reached++
				for key, values := range q[0] {
					if strings.EqualFold(key, "Traceparent") {
						assert.Equal(t, "Traceparent", key)
						assert.Len(t, values, 1)
					}
				}
				assert.Regexp(t, valid, q[0].Get("Traceparent"))
				assert.NotContains(t, q[1], "Traceparent")
				if !trusted {
					assert.NotContains(t, q[0].Get("Traceparent"), clientTrace)
				}
			}
			if name == "Tracestate" && one == clientParent && two == one {
				assert.Positive(t, reached, "this request is valid")
			}
		}
	})
}
