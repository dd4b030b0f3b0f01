package e2e_test

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A census is a listener that counts its connections until the other end closes
// them.
type census struct {
	net.Listener
	open, ever atomic.Int64
}

func (c *census) Accept() (net.Conn, error) {
	nc, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c.open.Add(1)
	c.ever.Add(1)
	return &counted{Conn: nc, c: c}, nil
}

// A counted connection counts until the end of its stream was read, or it is
// closed.
type counted struct {
	net.Conn
	c    *census
	once sync.Once
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == io.EOF {
		c.once.Do(func() { c.c.open.Add(-1) })
	}
	return n, err
}

func (c *counted) Close() error {
	c.once.Do(func() { c.c.open.Add(-1) })
	return c.Conn.Close()
}

// A leaving backend is a target that will be removed. It answers /held after a
// value on held.
type leaving struct {
	census
	target        string
	held, arrived chan struct{}
}

func newLeaving(t *testing.T, kind string) *leaving {
	t.Helper()
	b := &leaving{held: make(chan struct{}), arrived: make(chan struct{}, 1)}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/held" {
			b.arrived <- struct{}{}
			select {
			case <-b.held:
			case <-q.Context().Done():
			}
		}
		_, _ = io.WriteString(w, "leaving")
	}))
	server.Config.ErrorLog = log.New(t.Output(), "", 0)
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetHTTP2(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.EnableHTTP2 = kind == "gRPC"
	b.Listener = server.Listener
	switch kind {
	case "unix":
		path := t.TempDir() + "/s"
		ln, err := net.Listen("unix", path)
		require.NoError(t, err)
		b.Listener.Close()
		b.Listener, b.target = ln, "unix:"+path
	case "gRPC":
		b.target = "https://" + b.Addr().String()
	default:
		b.target = kind + "://" + b.Addr().String()
	}
	server.Listener = &b.census
	if strings.HasPrefix(b.target, "https:") {
		server.TLS, _ = proxytest.TLS(t)
		server.StartTLS()
	} else {
		server.Start()
	}
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	return b
}

// The connections to a removed target are closed: idle ones immediately, others
// when they become idle.
func TestNoConnectionToARemovedTargetIsKept(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	stays := newLeaving(t, "http")
	for name, remove := range map[string]func(u *hostproxy.Upstream, target string) error{
		"Remove":  func(u *hostproxy.Upstream, target string) error { return u.Remove(target) },
		"Replace": func(u *hostproxy.Upstream, _ string) error { return u.Replace(context.Background(), stays.target) },
	} {
		for _, kind := range []string{"http", "https", "unix", "h2c", "gRPC"} {
			for _, lane := range []string{"fast", "full"} {
				t.Run(name+"/"+kind+"/"+lane, func(t *testing.T) {
					b := newLeaving(t, kind)
					u := hostproxy.To(b.target, stays.target)
					u.Policy, u.TLS = hostproxy.FirstAvailable, &tls.Config{InsecureSkipVerify: true}
					ask := asksOver(t, lane, kind, u)
					asked, removed := make(chan string, 1), make(chan error, 1)
					hold := func() {
						go func() { asked <- ask("/held") }()
						<-b.arrived
					}
					hold()
					assert.Equal(t, "leaving", ask("/"))
					b.held <- struct{}{}
					assert.Equal(t, "leaving", <-asked)
					open := int64(2)
					if kind == "h2c" || kind == "gRPC" {
						open = 1 // for both upstreams
					}
					assert.Equal(t, open, b.open.Load(), "kept until it goes")

					hold()
					go func() { removed <- remove(u, b.target) }()
					proxytest.Eventually(t, "the end of what is idle", func() bool { return b.open.Load() == 1 && goesTo(u, stays) })
					assert.Equal(t, "leaving", ask("/"))
					before := stays.ever.Load()
					assert.Equal(t, "leaving", ask("/"))
					assert.Equal(t, before, stays.ever.Load(), "the other's are kept")
					b.held <- struct{}{}
					assert.Equal(t, "leaving", <-asked, "the exchange in flight is completed")
					proxytest.Eventually(t, "the end of the last one", func() bool { return b.open.Load() == 0 })
					assert.NoError(t, <-removed)
					assert.Equal(t, open, b.ever.Load())
				})
			}
		}
	}
}

// goesTo reports whether b is the only target of u.
func goesTo(u *hostproxy.Upstream, b *leaving) bool {
	all := slices.Collect(u.All())
	return len(all) == 1 && "http://"+all[0].String() == b.target
}

// asksOver serves u over the lane, and returns a func that requests a path: by
// a gRPC call if kind is gRPC.
func asksOver(t *testing.T, lane, kind string, u *hostproxy.Upstream) func(path string) string {
	t.Helper()
	r := &hostproxy.Router{Logger: silent()}
	r.Handle("a.test", u)
	conf, roots := proxytest.TLS(t, "a.test")
	r.TLS.Config = conf
	s := &hostproxy.Server{Router: r}
	if lane == "full" {
		s.Handler = http.HandlerFunc(r.ServeHTTP)
	}
	protocol, method, body := "h1", "GET", ""
	if kind == "gRPC" {
		protocol, method, body = "h2", "POST", "\x00\x00\x00\x00\x00"
	}
	c := proxytest.HTTPClient(t, proxytest.Start(t, s).HTTPS, roots, protocol)
	return func(path string) string {
		q, err := http.NewRequest(method, "https://a.test"+path, strings.NewReader(body))
		if !assert.NoError(t, err) {
			return ""
		}
		q.Header.Set("Content-Type", "application/grpc")
		res, err := c.Do(q)
		if !assert.NoError(t, err) {
			return ""
		}
		defer res.Body.Close()
		content, err := io.ReadAll(res.Body)
		assert.NoError(t, err)
		return string(content)
	}
}
