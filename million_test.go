package hostproxy_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
)

// An emptyStorage holds only what belongs to healthy.localhost.
type emptyStorage struct {
	certmagic.Storage
	healthy sync.Map
}

func (s *emptyStorage) Load(ctx context.Context, key string) ([]byte, error) {
	if b, ok := s.healthy.Load(key); ok {
		return b.([]byte), nil
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(time.Millisecond): // as slow as a disk or a network
		return nil, fs.ErrNotExist
	}
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

// A phase is a named part of a measurement, with its begin and end.
type phase struct {
	name       string
	begin, end time.Time
}

// runPhase runs f and returns how long it took.
func runPhase(name string, f func()) phase {
	p := phase{name: name, begin: time.Now()}
	f()
	p.end = time.Now()
	return p
}

func (p phase) took() time.Duration { return p.end.Sub(p.begin) }

// Measures what Replace costs with certificates, and how much Replace, and ten
// Set a second, slow down handshakes. With -million there are a million hosts,
// and the test checks the figures. Otherwise a fiftieth of them is used, and
// only success is checked. For comparison, handshakes also run beside a
// goroutine that burns a core, and beside one that copies the map of the call.
func TestHandshakesStayFastWhileAMillionHostsAreAdded(t *testing.T) {
	hosts, patience, every := 20_000, 10, 50*time.Millisecond
	if *million {
		hosts, patience, every = 1_000_000, 200, 10*time.Millisecond
	}
	r := hostproxy.Router{Logger: slog.New(slog.DiscardHandler)}
	addr := healthy(t, &r)
	up := hostproxy.To("127.0.0.1:1")
	all := map[string]http.Handler{"healthy.localhost": up}
	for i := range hosts {
		all[fmt.Sprintf("tenant-%07d.example.com", i)] = up
	}
	visitors := newVisitors(t, addr, every)
	visitors.await(2)
	wait := func() { visitors.await(patience) }
	quiet := runPhase("nothing else", wait)
	burn := runPhase("a core that burns", func() { besides(func() {}, wait) })
	copied := runPhase("copies of the map", func() { besides(func() { copyMap(all) }, wait) })
	before := heap()
	replace := runPhase("Replace", func() { require.NoError(t, r.Replace(all)) })
	follow := runPhase("certificates", func() { require.NoError(t, r.AwaitCertificates(t.Context(), "healthy.localhost")) })
	each := (heap() - before) / hosts
	set := runPhase("ten Set a second", func() {
		for i := range patience/10 + 1 {
			require.NoError(t, r.Set(fmt.Sprintf("new%d.example.com", i), up))
			visitors.await(max(1, patience/20))
		}
	})
	visitors.end()
	n := 0
	for range r.Certificates() {
		n++
	}
	assert.Equal(t, hosts+1+patience/10+1, n, "each host has a status")
	runtime.KeepAlive(all)

	t.Logf("%d hosts: Replace takes %v, the certificates follow within %v; %d bytes a host without its certificate, its name and the map of the call",
		hosts, replace.took(), replace.took()+follow.took(), each)
	if calm, worst := show(t, visitors, quiet, burn, copied, replace, follow, set); *million {
		assert.LessOrEqual(t, each, 300)
		assert.LessOrEqual(t, replace.took(), 2*time.Second, "p99 beside nothing else: %v", calm)
		assert.LessOrEqual(t, worst, 5*time.Millisecond, "p99 beside nothing else: %v", calm)
	}
}

// show logs how long handshakes took in each phase. It returns the p99 of the
// first phase, and the longest time in the phases after the third.
func show(t *testing.T, v *visitors, phases ...phase) (calm, worst time.Duration) {
	for i, p := range phases {
		took := v.during(p.begin, p.end)
		p99 := percentile(took, 99)
		t.Logf("beside %-17s %5d handshakes, p50 %v, p99 %v, longest %v", p.name, len(took), percentile(took, 50), p99, percentile(took, 100))
		switch {
		case i == 0:
			calm = p99
		case i > 2:
			worst = max(worst, p99)
		}
	}
	return calm, worst
}

// healthy makes r serve healthy.localhost, which has its certificate in
// storage. All other hosts wait for theirs in vain. It returns the address.
func healthy(t *testing.T, r *hostproxy.Router) string {
	t.Helper()
	r.TLS.Storage, r.TLS.Issuer, r.TLS.Internal = new(emptyStorage), silentCA{}, &hostproxy.LocalCA{Storage: files(t)}
	r.Handle("healthy.localhost", hostproxy.To("127.0.0.1:1"))
	ln, err := r.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	srv := &http.Server{Handler: r, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() {
		_ = srv.Close()
		require.NoError(t, r.Close())
	})
	require.NoError(t, r.AwaitCertificates(t.Context(), "healthy.localhost"))
	return ln.Addr().String()
}

// besides calls f while another goroutine repeats work.
func besides(work, f func()) {
	var done atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for !done.Load() {
			work()
		}
	})
	f()
	done.Store(true)
	wg.Wait()
}

func copyMap(all map[string]http.Handler) {
	c := make(map[string]http.Handler)
	for k, v := range all {
		c[k] = v
	}
}

// percentile returns the pth percentile of sorted values. Without values it
// returns 0.
func percentile(all []time.Duration, p int) time.Duration {
	if len(all) == 0 {
		return 0
	}
	return all[min(len(all)-1, len(all)*p/100)]
}
