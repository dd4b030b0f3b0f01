package e2e_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A place is a kind of server and route that serves a.test.
type place struct {
	name   string
	front  func(testing.TB, shape) *track
	shape  shape
	fields string // fields that a request needs there
	usual  int    // status of a request that is not refused
	reads  bool   // it reads the body
}

func (p *place) start(t testing.TB) *track {
	t.Helper()
	return p.front(t, p.shape)
}

// newChallenges returns a track to the plain listener of a Server that also has
// one for HTTPS.
func newChallenges(t testing.TB, s shape) *track {
	t.Helper()
	k := newFast(t, secured(s))
	k.addr, k.tls = k.running.Plain, nil
	return k
}

// handling returns the shape with a route for any host to the handler from
// make.
func handling(make func(*hostproxy.Router, *hostproxy.Upstream) http.Handler) shape {
	return shape{routes: func(r *hostproxy.Router, u *hostproxy.Upstream) { r.Handle("*", make(r, u)) }}
}

// guarded returns the shape with a route behind the password of
// credentials("ann", "s3cret").
func guarded() shape {
	users := map[string]string{"ann": "$2a$04$XJA8TtU92Od1ueJuFz4XxeHjWyuDL7J8.qtbJFtRXvb2UTzDZ2lN2"}
	return handling(func(_ *hostproxy.Router, u *hostproxy.Upstream) http.Handler {
		return &hostproxy.BasicAuth{Users: users, Next: u}
	})
}

// redirecting returns the shape with a redirect to another host.
func redirecting() shape {
	return handling(func(*hostproxy.Router, *hostproxy.Upstream) http.Handler { return hostproxy.Redirect("b.test") })
}

// elsewhere returns the shape of a Router without a route for a.test.
func elsewhere() shape {
	return shape{routes: func(r *hostproxy.Router, u *hostproxy.Upstream) { r.Handle("b.test", u) }}
}

// secured returns s over TLS.
func secured(s shape) shape {
	s.secure = true
	return s
}

// places returns all kinds of places that HTTP/1.x can reach.
func places() []place {
	password := credentials("ann", "s3cret")
	return []place{
		{name: "an upstream", front: newFast, usual: 200, reads: true},
		{name: "an upstream over TLS", front: newFast, shape: shape{secure: true}, usual: 200, reads: true},
		{name: "behind middleware", front: newAdapter, usual: 200, reads: true},
		{name: "behind middleware over TLS", front: newAdapter, shape: shape{secure: true}, usual: 200, reads: true},
		{name: "behind a hook", front: newHooked, usual: 200, reads: true},
		{name: "behind a password", front: newFast, shape: guarded(), fields: password, usual: 200, reads: true},
		{name: "behind a password over TLS", front: newFast, shape: secured(guarded()), fields: password, usual: 200, reads: true},
		{name: "a redirect", front: newFast, shape: redirecting(), usual: 308},
		{name: "an unknown host", front: newFast, shape: elsewhere(), usual: 404},
		{name: "the port of challenges", front: newChallenges, usual: 308},
	}
}

// openings are valid requests. Each of them once made net/http read the rest of
// its connection. Read-only.
var openings = []struct{ about, raw string }{
	{"an expectation", "GET /opening HTTP/1.1\r\n" + host + "Expect: 100-continue\r\n\r\n"},
	{"an upgrade", "GET /opening HTTP/1.1\r\n" + host + "Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"},
	{"an unusual method", "PURGE /opening HTTP/1.1\r\n" + host + "\r\n"},
	{"an absolute target", "GET http://a.test/opening HTTP/1.1\r\n" + host + "\r\n"},
	{"HTTP/1.0 that stays", "GET /opening HTTP/1.0\r\n" + host + "Connection: keep-alive\r\n\r\n"},
	{"an announced trailer", "POST /opening HTTP/1.1\r\n" + host + "Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 1\r\n\r\n"},
	{"a nominated field", "GET /opening HTTP/1.1\r\n" + host + "Connection: X-A\r\nX-A: 1\r\n\r\n"},
	{"TE", "GET /opening HTTP/1.1\r\n" + host + "Connection: TE\r\nTE: trailers\r\n\r\n"},
}

const (
	opening = "GET /opening HTTP/1.1\r\n" + host + "\r\n"
	// closed, since a lenient server would wait for more
	behind = "GET /smuggled HTTP/1.1\r\n" + host + "Connection: close\r\n\r\n"
)

// An invalid request is refused with the same status at every place and after
// any earlier requests on its connection, which then ends. No target gets it,
// and the bytes after it are not read as a request. The status page counts it
// by its status.
func TestARefusalIsTheSameFromTheFirstRequestToTheLast(t *testing.T) {
	t.Parallel()
	corpus := refusals()
	for n, p := range places() {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			k := p.start(t)
			k.records = nil // they are not read
			k.mirror.answer.Store(&say)
			for i, x := range corpus {
				p.refuses(t, k, "as the first request", nil, &x)
				p.refuses(t, k, "behind four plain requests", []string{opening, opening, opening, opening}, &x)
				// there are more places than openings, so each refusal comes
				// after each opening
				o := openings[(i+n)%len(openings)]
				p.refuses(t, k, "behind "+o.about, []string{opening, o.raw, opening, opening}, &x)
			}
			assert.Equal(t, countsOf(corpus, 3), refusalsOf(t, k.router))
		})
	}
}

// countsOf returns the counts of the status page after n times each refusal of
// corpus. Faults in a body do not count there: they fail an exchange.
func countsOf(corpus []refusal, n uint64) map[string]uint64 {
	all := make(map[string]uint64)
	for _, x := range corpus {
		if !x.body {
			all["requests "+itoa(x.want)] += n
		}
	}
	return all
}

// refuses sends x after the requests in first, and another request after x, and
// checks the outcome.
func (p *place) refuses(t *testing.T, k *track, about string, first []string, x *refusal) {
	t.Helper()
	want := x.want
	if x.body && !p.reads {
		want = p.usual
	}
	wanted := fmt.Sprintf("%d and the end", want)
	if got := p.outcome(t, k, first, x.raw); got != wanted {
		t.Errorf("%s, %s: %s, want %s", x.about, about, got, wanted)
	}
}

// outcome returns the outcome of raw after the requests in first.
func (p *place) outcome(t *testing.T, k *track, first []string, raw string) string {
	t.Helper()
	c, err := k.dial()
	require.NoError(t, err)
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(proxytest.Patience))
	p.opens(t, c, first)
	_ = c.Send(p.with(raw) + p.with(behind)) // fails if the refusal comes first
	answer, err := c.ReadAll()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the connection stays open behind %s, after %s", short(raw), short(answer))
	}
	return statusesOf(answer) + " and the end" + k.heard()
}

// opens sends the requests in first and checks their responses.
func (p *place) opens(t testing.TB, c *proxytest.Conn, first []string) {
	t.Helper()
	for _, q := range first {
		require.NoError(t, c.Send(p.with(q)))
		a, err := c.ReadResponse("GET")
		require.NoError(t, err, "an answer to %q", q)
		require.Equal(t, p.usual, a.StatusCode, "the answer to %q", q)
		require.False(t, a.Close, "the connection stays open behind %q", q)
	}
}

// with returns raw with the fields that p needs, after Host, if raw has that
// line.
func (p *place) with(raw string) string { return strings.Replace(raw, host, host+p.fields, 1) }

// statusesOf returns the statuses of all responses in text.
func statusesOf(text string) string {
	parts := strings.Split(text, "HTTP/1.")
	if parts[0] != "" || len(parts) == 1 {
		return "no response but " + short(text)
	}
	var all []string
	for _, part := range parts[1:] {
		all = append(all, part[min(2, len(part)):min(5, len(part))])
	}
	return strings.Join(all, ", ")
}

// heard returns the requests that the target got, except openings.
func (k *track) heard() string {
	var b strings.Builder
	for _, q := range k.mirror.taken() {
		if !strings.HasSuffix(q.RequestURI, "/opening") {
			b.WriteString(", and the target is asked for " + short(q.RequestURI))
		}
	}
	return b.String()
}
