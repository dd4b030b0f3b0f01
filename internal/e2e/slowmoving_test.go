//go:build unix && !portable

package e2e_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
)

// The pace of a crawl, which is the slow end of a body: one piece at each tick,
// for several times IdleTimeout.
const (
	crawlIdle  = 4 * time.Second
	crawlTick  = 40 * time.Millisecond
	crawlTicks = 250
	crawlPiece = 2 << 10 // bytes of a write
	crawlSize  = crawlTicks * crawlPiece
	crawlTaken = 8 << 10 // bytes of a read: more, since a socket makes room in steps
	crawlBody  = 6 << 20 // more than the sockets in between hold
)

// crawlWrite writes at that pace.
func crawlWrite(w io.Writer) {
	tick := time.NewTicker(crawlTick)
	defer tick.Stop()
	for range crawlTicks {
		<-tick.C
		if _, err := io.WriteString(w, strings.Repeat("x", crawlPiece)); err != nil {
			return
		}
	}
}

// crawlRead reads at that pace.
func crawlRead(r io.Reader) error {
	tick := time.NewTicker(crawlTick)
	defer tick.Stop()
	page := make([]byte, crawlTaken)
	for start := time.Now(); time.Since(start) < crawlTick*crawlTicks; <-tick.C {
		if _, err := io.ReadFull(r, page); err != nil {
			return err
		}
	}
	return nil
}

// steady gives a socket a small receive buffer of fixed size, which makes room
// in small steps.
func steady(_, _ string, c syscall.RawConn) (err error) {
	return errors.Join(c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 64<<10) }), err)
}

// crawlDial opens a connection to s.
func (s *site) crawlDial() (nc net.Conn, err error) {
	if nc, err = (&net.Dialer{Control: steady}).Dial("tcp", s.addr); err != nil {
		return nil, err
	}
	if s.tls != nil {
		nc = tls.Client(nc, s.tls)
	}
	return nc, nc.SetDeadline(time.Now().Add(time.Minute))
}

// slowTarget is a target that crawls itself: it answers /trickle and /chunks
// slowly, and reads the body to /taken slowly.
func slowTarget(w http.ResponseWriter, q *http.Request) {
	switch q.URL.Path {
	case "/trickle":
		w.Header().Set("Content-Length", fmt.Sprint(crawlSize))
		crawlWrite(flushing{w})
	case "/chunks":
		crawlWrite(flushing{w})
	case "/body":
		w.Header().Set("Content-Length", fmt.Sprint(crawlBody))
		_, _ = io.WriteString(w, strings.Repeat("x", crawlBody))
	case "/stream":
		_, _ = io.WriteString(flushing{w}, strings.Repeat("x", crawlBody))
	case "/taken":
		err := crawlRead(q.Body)
		_, _ = io.Copy(io.Discard, q.Body)
		fmt.Fprint(w, err)
	}
}

// flushing sends each write immediately.
type flushing struct{ http.ResponseWriter }

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.ResponseWriter.Write(p)
	_ = http.NewResponseController(f.ResponseWriter).Flush()
	return n, err
}

// crawlGet fetches path and reads the body.
func (s *site) crawlGet(path string, read func(io.Reader) error) error {
	nc, err := s.crawlDial()
	if err != nil {
		return err
	}
	defer nc.Close()
	fmt.Fprintf(nc, "GET %s HTTP/1.1\r\nHost: a.test\r\n\r\n", path)
	res, err := http.ReadResponse(bufio.NewReaderSize(nc, crawlTaken), nil)
	if err != nil {
		return err
	}
	return read(res.Body)
}

// crawlPost sends a body as fast as the target takes it, and returns the
// response.
func (s *site) crawlPost(framing string) (string, error) {
	nc, err := s.crawlDial()
	if err != nil {
		return "", err
	}
	body := strings.Repeat("x", crawlBody)
	head := fmt.Sprintf("Content-Length: %d\r\n\r\n", crawlBody)
	if framing == "chunked" {
		head, body = "Transfer-Encoding: chunked\r\n\r\n", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", crawlBody, body)
	}
	var sender sync.WaitGroup
	sender.Go(func() { _, _ = io.WriteString(nc, "POST /taken HTTP/1.1\r\nHost: a.test\r\n"+head+body) })
	defer sender.Wait()
	defer nc.Close()
	res, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil {
		return "", err
	}
	answer, err := io.ReadAll(res.Body)
	return string(answer), err
}

// IdleTimeout ends bodies that do not move. A body that moves goes on, however
// few bytes arrive in that time: from the target, to the client, and from the
// client to the target.
func TestASlowBodyThatMovesIsNotCutOff(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	ln, err := (&net.ListenConfig{Control: steady}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	backend := httptest.NewUnstartedServer(http.HandlerFunc(slowTarget))
	backend.Listener.Close()
	backend.Listener = ln
	backend.Start()
	t.Cleanup(backend.Close)
	toBackend := func(s *site) {
		s.upstream = hostproxy.To(backend.Listener.Addr().String())
		s.upstream.IdleTimeout = crawlIdle
	}
	whole := func(r io.Reader) error {
		n, err := io.Copy(io.Discard, r)
		if err == nil && n != crawlSize {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	var work sync.WaitGroup
	for _, l := range lanes {
		s := newSite(t, l, nil, toBackend)
		gets := map[string]func(io.Reader) error{"/trickle": whole, "/chunks": whole}
		if !l.foreign { // its connection cannot be observed
			gets["/body"], gets["/stream"] = crawlRead, crawlRead
		}
		for path, read := range gets {
			work.Go(func() {
				assert.NoError(t, s.crawlGet(path, read), "%s: %s", l.name, path)
			})
		}
		for _, framing := range []string{"sized", "chunked"} {
			work.Go(func() {
				got, err := s.crawlPost(framing)
				assert.NoError(t, err, "%s: %s", l.name, framing)
				assert.Equal(t, "<nil>", got, "%s: %s", l.name, framing)
			})
		}
	}
	work.Wait()
}
