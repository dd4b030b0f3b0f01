package e2e_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A bodyFeed is a request body that is sent at a steady rate.
type bodyFeed struct {
	size, piece int // bytes in total, and per fifth of a second
}

// send writes the body to w, and returns the time until that ended or failed.
// It catches up after the machine stood still.
func (b bodyFeed) send(w io.Writer) time.Duration {
	const pace = 200 * time.Millisecond
	start := time.Now()
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for sent := 0; sent < b.size; {
		<-tick.C
		due := min(b.size, b.piece*int(time.Since(start)/pace))
		if _, err := io.WriteString(w, strings.Repeat("x", due-sent)); err != nil {
			break
		}
		sent = due
	}
	return time.Since(start)
}

// talker begins its response to /talk before it reads the body, and other
// responses after it.
func talker(w http.ResponseWriter, q *http.Request) {
	if q.URL.Path == "/talk" {
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		io.WriteString(w, "first ")
		_ = rc.Flush()
	}
	n, _ := io.Copy(io.Discard, q.Body)
	fmt.Fprintf(w, "%d", n)
}

// upload sends a request with the body on a new connection to s, and returns
// everything that it receives.
func (s *site) upload(path string, b bodyFeed) (string, error) {
	nc, err := net.Dial("tcp", s.addr)
	if err != nil {
		return "", err
	}
	defer nc.Close()
	if s.tls != nil {
		nc = tls.Client(nc, s.tls)
	}
	if err := nc.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return "", err
	}
	fmt.Fprintf(nc, "POST %s HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\nContent-Length: %d\r\n\r\n", path, b.size)
	var sender sync.WaitGroup
	sender.Go(func() { b.send(nc) })
	all, err := io.ReadAll(nc)
	nc.Close() // ends the sender too
	sender.Wait()
	if len(all) > 0 {
		err = nil // a reset after a response
	}
	return string(all), err
}

// A client whose body is too slow gets 408, in every lane. A slow body that
// moves is accepted, and so is one whose response has begun, and a gRPC stream.
func TestABodyThatIsTooSlowGets408(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	backend := proxytest.NewServer(t, http.HandlerFunc(talker))
	toTalker := func(s *site) { s.upstream = hostproxy.To(backend.Addr()) }
	idle := bodyFeed{size: 100_000, piece: 4}  // 20 bytes a second
	steady := bodyFeed{size: 4_400, piece: 80} // takes 11 s
	chatty := bodyFeed{size: 220, piece: 4}    // takes 11 s too
	var uploads sync.WaitGroup
	for _, l := range lanes {
		s := newSite(t, l, nil, toTalker)
		uploads.Go(func() {
			start := time.Now()
			got, err := s.upload("/", idle)
			took := time.Since(start)
			if assert.NoError(t, err, l.name) {
				assert.True(t, strings.HasPrefix(got, "HTTP/1.1 408 "), "%s: an idle body is cut off: %q", l.name, got)
				assert.GreaterOrEqual(t, took, 10*time.Second, l.name)
				assert.Less(t, took, 30*time.Second, l.name)
			}
		})
		uploads.Go(func() {
			got, err := s.upload("/", steady)
			if assert.NoError(t, err, l.name) {
				assert.True(t, strings.HasSuffix(got, "4400"), "%s: a steady body arrives: %q", l.name, got)
			}
		})
		uploads.Go(func() {
			got, err := s.upload("/talk", chatty)
			if assert.NoError(t, err, l.name) {
				assert.Contains(t, got, "first ", "%s: answered early", l.name)
				assert.Contains(t, got, "220", "%s: a body behind its answer may be slow: %q", l.name, got)
			}
		})
		if !l.secure || l.handler {
			continue
		}
		client := proxytest.HTTPClient(t, s.addr, s.tls.RootCAs, "h2")
		client.Transport.(*http.Transport).ResponseHeaderTimeout = time.Minute
		uploads.Go(func() {
			r, w := io.Pipe()
			defer r.Close()
			go idle.send(w)
			res, err := client.Post("https://a.test/", "text/plain", r)
			if assert.NoError(t, err, "an idle body over HTTP/2") {
				res.Body.Close()
				assert.Equal(t, 408, res.StatusCode)
			}
		})
		uploads.Go(func() {
			r, w := io.Pipe()
			go func() {
				chatty.send(w)
				w.Close()
			}()
			res, err := client.Post("https://a.test/", "application/grpc", r)
			if assert.NoError(t, err, "a stream of gRPC") {
				defer res.Body.Close()
				body, err := io.ReadAll(res.Body)
				assert.NoError(t, err)
				assert.Equal(t, "220", string(body))
			}
		})
	}
	uploads.Wait()
}
