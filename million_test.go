package hostproxy_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
)

// An emptyStorage has nothing, but what belongs to healthy.localhost.
type emptyStorage struct {
	certmagic.Storage
	healthy sync.Map
}

func (s *emptyStorage) Load(_ context.Context, key string) ([]byte, error) {
	if b, ok := s.healthy.Load(key); ok {
		return b.([]byte), nil
	}
	<-time.After(time.Millisecond) // as a disk or a network
	return nil, fs.ErrNotExist
}

func (s *emptyStorage) Store(_ context.Context, key string, value []byte) error {
	if strings.Contains(key, "healthy.localhost") {
		s.healthy.Store(key, slices.Clone(value))
	}
	return nil
}

func (s *emptyStorage) Exists(_ context.Context, key string) bool {
	_, ok := s.healthy.Load(key)
	return ok
}

func (*emptyStorage) Delete(context.Context, string) error { return nil }
func (*emptyStorage) Lock(context.Context, string) error   { return nil }
func (*emptyStorage) Unlock(context.Context, string) error { return nil }
func (*emptyStorage) List(context.Context, string, bool) ([]string, error) {
	return nil, fs.ErrNotExist
}

// A silentCA never answers.
type silentCA struct{}

func (silentCA) IssuerKey() string { return "silent" }

func (silentCA) Issue(ctx context.Context, _ *x509.CertificateRequest) (*certmagic.IssuedCertificate, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// What Replace costs with certificates, and what it and ten Set a second do to handshakes. With -million it is measured
// with so many hosts, and held to its figures; else with a fiftieth of them, and to nothing but success.
func TestHandshakesWhileAMillionHostsCome(t *testing.T) {
	hosts := 20_000
	if *million {
		hosts = 1_000_000
	}
	r := hostproxy.Router{Logger: slog.New(slog.DiscardHandler)}
	r.TLS.Storage, r.TLS.Issuer, r.TLS.Internal = new(emptyStorage), silentCA{}, &hostproxy.LocalCA{Storage: files(t)}
	up := hostproxy.To("127.0.0.1:1")
	r.Handle("healthy.localhost", up)
	ln, err := r.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, r.Close()) }()
	srv := &http.Server{Handler: &r, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)}
	go func() { _ = srv.Serve(ln) }()
	defer srv.Close()
	require.NoError(t, r.AwaitCertificates(t.Context(), "healthy.localhost"))

	all := map[string]http.Handler{"healthy.localhost": up}
	for i := range hosts {
		all[fmt.Sprintf("tenant-%07d.example.com", i)] = up
	}
	before := heap()
	stop, took := make(chan struct{}), make(chan []time.Duration)
	go handshakes(t, ln.Addr().String(), stop, took)
	begin := time.Now()
	require.NoError(t, r.Replace(all))
	replaced := time.Since(begin)
	require.Len(t, slices.Collect(r.Certificates()), hosts+1, "each is known")
	followed := time.Since(begin)
	stop <- struct{}{}
	during := <-took
	each := (heap() - before) / hosts

	go handshakes(t, ln.Addr().String(), stop, took)
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for i := range 30 {
		<-ticker.C
		require.NoError(t, r.Set(fmt.Sprintf("new%d.example.com", i), up))
	}
	stop <- struct{}{}
	setting := <-took
	t.Logf("%d hosts: Replace takes %s, the certificates follow within %s; %d bytes a host without its certificate, its name and the map of the call not counted; "+
		"handshakes meanwhile p50 %s p99 %s (%d), while ten hosts a second come p50 %s p99 %s (%d)",
		hosts, replaced, followed, each, percentile(during, 50), percentile(during, 99), len(during), percentile(setting, 50), percentile(setting, 99), len(setting))
	if *million {
		assert.LessOrEqual(t, replaced, 2*time.Second)
		assert.LessOrEqual(t, each, 300)
	}
	runtime.KeepAlive(all)
}

// handshakes makes full handshakes of a healthy host one after the other, a hundred a second at most.
func handshakes(t *testing.T, addr string, stop <-chan struct{}, took chan<- []time.Duration) {
	var all []time.Duration
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-stop:
			took <- all
			return
		case <-ticker.C:
		}
		begin := time.Now()
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", addr, &tls.Config{ServerName: "healthy.localhost", InsecureSkipVerify: true})
		if !assert.NoError(t, err) {
			continue
		}
		all = append(all, time.Since(begin))
		c.Close()
	}
}

func percentile(all []time.Duration, p int) time.Duration {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[min(len(all)-1, len(all)*p/100)]
}
