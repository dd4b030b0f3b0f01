package hostproxy_test

import (
	"context"
	"net"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// twoServers starts two Servers on a Router with the host a.localhost.
func twoServers(t *testing.T) (r *hostproxy.Router, first, second *proxytest.Running) {
	t.Helper()
	proxytest.NoLeaks(t)
	r = new(hostproxy.Router)
	r.TLS.Storage = files(t)
	r.Handle("a.localhost", named("a"))
	first = proxytest.Start(t, &hostproxy.Server{Router: r})
	second = proxytest.Start(t, &hostproxy.Server{Router: r})
	require.NoError(t, r.AwaitCertificates(t.Context()))
	serves(t, r, first, "a.localhost")
	serves(t, r, second, "a.localhost") // so Serve has begun
	return r, first, second
}

// serves checks that a Server serves a host of r over TLS.
func serves(t *testing.T, r *hostproxy.Router, s *proxytest.Running, host string) {
	t.Helper()
	c := proxytest.HTTPClient(t, s.HTTPS, localRoots(t, r.TLS.Storage), "h1")
	status, _ := get(t, c, "https://"+host+"/")
	assert.Equal(t, http.StatusOK, status)
}

// obtains waits until a host that it adds to r has its certificate.
func obtains(t *testing.T, r *hostproxy.Router, host string) {
	t.Helper()
	require.NoError(t, r.Set(host, named(host)))
	ctx, cancel := context.WithTimeout(t.Context(), proxytest.Patience)
	defer cancel()
	require.NoError(t, r.AwaitCertificates(ctx, host))
}

func TestCertificatesAreKeptUntilTheLastServerEnds(t *testing.T) {
	t.Parallel() // mostly waiting
	r, first, second := twoServers(t)
	require.NoError(t, first.Stop())
	obtains(t, r, "b.localhost")
	serves(t, r, second, "b.localhost")
	require.NoError(t, second.Stop())
	assert.Empty(t, slices.Collect(r.Certificates()), "nothing is kept after the last Server")
}

func TestAListenerOfYourOwnKeepsCertificatesUntilClose(t *testing.T) {
	t.Parallel() // mostly waiting
	r, first, second := twoServers(t)
	r.TLSConfig()
	require.NoError(t, first.Stop())
	require.NoError(t, second.Stop())
	obtains(t, r, "b.localhost")
	require.NoError(t, r.Close())
	assert.Empty(t, slices.Collect(r.Certificates()))
}

func TestCloseEndsTheCertificatesAtOnceWhileServersContinue(t *testing.T) {
	t.Parallel() // mostly waiting
	r, first, second := twoServers(t)
	require.NoError(t, r.Close())
	assert.Empty(t, slices.Collect(r.Certificates()))
	serves(t, r, first, "a.localhost")
	serves(t, r, second, "a.localhost")

	third := proxytest.Start(t, &hostproxy.Server{Router: r})
	obtains(t, r, "b.localhost")
	require.NoError(t, first.Stop())
	require.NoError(t, second.Stop())
	obtains(t, r, "c.localhost")
	serves(t, r, third, "c.localhost")
	require.NoError(t, third.Stop())
	assert.Empty(t, slices.Collect(r.Certificates()))
}

func TestAServerThatCannotStartEndsNothing(t *testing.T) {
	t.Parallel() // mostly waiting
	r, first, second := twoServers(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.Error(t, (&hostproxy.Server{Router: r, MaxConns: -1}).Serve(t.Context(), ln, nil))
	require.NoError(t, first.Stop())
	obtains(t, r, "b.localhost")
	require.NoError(t, second.Stop())
	assert.Empty(t, slices.Collect(r.Certificates()))
}

func TestAServerServesOnceAtATimeAndMayServeAgain(t *testing.T) {
	t.Parallel() // mostly waiting
	s := &hostproxy.Server{Router: new(hostproxy.Router)}
	run := proxytest.StartPlain(t, s)
	proxytest.Dial(t, run.Plain).Do("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	assert.ErrorContains(t, s.Serve(t.Context(), nil, proxytest.Listen(t)), "Serve is in progress")
	require.NoError(t, run.Stop())
	again := proxytest.StartPlain(t, s)
	proxytest.Dial(t, again.Plain).Do("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n")
	require.NoError(t, again.Stop())
}

func TestServersThatComeAndGoAtOnceLeaveNothingBehind(t *testing.T) {
	proxytest.NoLeaks(t)
	r := new(hostproxy.Router)
	r.TLS.Storage = files(t)
	r.Handle("a.localhost", named("a"))
	ended := make(chan error, 8)
	for i := range cap(ended) {
		https, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*time.Millisecond)
		t.Cleanup(cancel)
		go func() { ended <- (&hostproxy.Server{Router: r}).Serve(ctx, https, nil) }()
		if i%3 == 0 {
			require.NoError(t, r.Close())
		}
	}
	for range cap(ended) {
		require.NoError(t, <-ended)
	}
	assert.Empty(t, slices.Collect(r.Certificates()))
}

func TestEachServerRedirectsToItsOwnPort(t *testing.T) {
	_, first, second := twoServers(t)
	for _, s := range []*proxytest.Running{first, second} {
		_, plain, err := net.SplitHostPort(s.Plain)
		require.NoError(t, err)
		_, https, err := net.SplitHostPort(s.HTTPS)
		require.NoError(t, err)
		conn := proxytest.Dial(t, s.Plain)
		conn.Send("GET /x HTTP/1.1\r\nHost: a.localhost:" + plain + "\r\n\r\n")
		assert.Equal(t, "https://a.localhost:"+https+"/x", conn.Response("GET").Header.Get("Location"))
	}
}
