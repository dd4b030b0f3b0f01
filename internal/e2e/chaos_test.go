package e2e_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// The size of the chaos.
const (
	chaosTargets = 4        // only the first one has no faults
	chaosKept    = 32 << 10 // larger bodies are not sent twice
)

// chaosTime is how long the plain chaos takes. By default it is short:
//
//	go test ./internal/e2e -run TestTheServiceWorksWhileTargetsMisbehave -v -chaos 20s
var chaosTime = flag.Duration("chaos", 0, "time of TestTheServiceWorksWhileTargetsMisbehave/plain; 0 is a short one with fewer clients")

// content returns bytes that belong to one request only.
func content(id string, size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8(sha256.Sum256([]byte(id))).Read(b) // never fails
	return b
}

// A ledger records the requests that the backends got.
type ledger struct {
	moody bool // all except the first answer some requests with 503

	mu      sync.Mutex
	seen    map[string]int // deliveries, by method and request
	refused int
}

// deliver records a request, and reports whether the backend should serve it.
func (l *ledger) deliver(request string, backend int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen[request]++
	if l.moody && backend > 0 && rand.IntN(16) == 0 {
		l.refused++
		return false
	}
	return true
}

// serve answers with the content of the request, in the size that it asks for.
func (l *ledger) serve(backend int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/up" {
			return // a health check
		}
		id := q.Header.Get("X-Id")
		serves := l.deliver(q.Method+" "+id, backend)
		got, err := io.ReadAll(q.Body)
		if err != nil {
			return
		}
		if want, _ := strconv.Atoi(q.Header.Get("X-Sent")); !bytes.Equal(got, content("request "+id, want)) {
			w.WriteHeader(400)
			return
		}
		if !serves {
			w.WriteHeader(503)
			return
		}
		size, _ := strconv.Atoi(q.URL.Query().Get("size"))
		w.Header().Set("X-Id", id)
		w.Header().Set("Content-Length", strconv.Itoa(size))
		_, _ = w.Write(content("response "+id, size))
	})
}

// refusals returns how many requests were answered with 503.
func (l *ledger) refusals() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refused
}

// check checks that no request was sent more often than allowed, and returns
// how many were sent more than once.
func (l *ledger) check(t testing.TB) (again int) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	// A target with a dead kept connection gets the request once more.
	// net/http's client may also send a GET twice.
	most := map[string]int{"POST": 1, "PUT": 2 * chaosTargets, "DELETE": 2 * chaosTargets}
	for request, n := range l.seen {
		method, _, _ := strings.Cut(request, " ")
		if n > 1 {
			again++
		}
		if m, ok := most[method]; ok {
			assert.LessOrEqual(t, n, m, "deliveries of %s", request)
		}
	}
	return again
}

// A chaosClient sends requests and judges the responses.
type chaosClient struct {
	*http.Client
	url    string
	random *rand.Rand

	lenient bool // any request may fail

	asked, broken, unlucky int
	wrong                  []string
}

func (c *chaosClient) ask(id string) {
	sizes := []int{0, 1, 1 << 10, 16 << 10, 64 << 10, 1 << 20}
	method := []string{"GET", "HEAD", "PUT", "DELETE", "POST", "GET"}[c.random.IntN(6)]
	sent, size := 0, sizes[c.random.IntN(len(sizes))]
	if method == "PUT" || method == "POST" {
		sent = sizes[c.random.IntN(len(sizes))]
	}
	q, _ := http.NewRequest(method, c.url+"/?size="+strconv.Itoa(size), bytes.NewReader(content("request "+id, sent)))
	q.GetBody = nil // so that net/http's client sends it once
	q.Host = "a.test"
	q.Header.Set("X-Id", id)
	q.Header.Set("X-Sent", strconv.Itoa(sent))
	q.Close = c.random.IntN(8) == 0
	c.asked++
	res, err := c.Do(q)
	if err != nil {
		c.failed(method, sent, fmt.Sprint(method, " ", sent, " of ", id, ": ", err))
		return
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	switch want := content("response "+id, size); {
	case res.StatusCode != 200:
		c.failed(method, sent, fmt.Sprint(method, " ", sent, " of ", id, ": ", res.StatusCode, " ", string(got)))
	case res.Header.Get("X-Id") != id:
		c.wrong = append(c.wrong, "the answer of "+res.Header.Get("X-Id")+" for "+id)
	case err != nil && bytes.HasPrefix(want, got):
		c.broken++ // cut off, in a way that the client notices
	case method != "HEAD" && !bytes.Equal(got, want):
		c.wrong = append(c.wrong, "bytes of another answer for "+id)
	}
}

// failed notes an exchange without a response, which is wrong for most
// requests.
func (c *chaosClient) failed(method string, sent int, what string) {
	if method == "POST" || sent > chaosKept || c.lenient {
		c.unlucky++
		return
	}
	c.wrong = append(c.wrong, what)
}

// A chaos is an upstream with failing targets, and its clients.
type chaos struct {
	name     string
	clients  int
	requests int
	time     time.Duration // limit on a slow machine, which then sends fewer requests
	change   func(*hostproxy.Upstream)
	moody    bool // failing targets sometimes answer 503
	queues   bool // there is no room for all requests
	// a healthy target may be full when a request has failed at another one: a
	// retry does not wait
	full bool
}

// Whatever three of four targets do: every request that can be answered is
// answered, no client gets another's response, no request runs twice that must
// not, and no resource is left over.
func TestTheServiceWorksWhileTargetsMisbehave(t *testing.T) {
	clients, requests, length := chaosClients, 1200, 2*time.Second
	if *chaosTime > 0 {
		clients, requests, length = 8*chaosClients, 10_000, *chaosTime
	}
	const few = chaosClients
	for _, c := range []chaos{
		{name: "plain", clients: clients, requests: requests, time: length, change: func(*hostproxy.Upstream) {}},
		{name: "with features", clients: few, requests: 600, time: time.Second, moody: true, queues: true, change: func(u *hostproxy.Upstream) {
			u.Health = &hostproxy.HealthCheck{Path: "/up", Interval: 50 * time.Millisecond, Timeout: time.Second}
			// each failing attempt may win against a hedge that would succeed
			u.Retry.Attempts = 2*chaosTargets - 1
			u.Hedge, u.Retry.Statuses, u.SlowStart = 50*time.Millisecond, []int{503}, 100*time.Millisecond
			u.MaxInFlight, u.MaxTargetInFlight, u.Queue = few/3, few, hostproxy.Queue{Max: few, Wait: proxytest.Patience}
		}},
		{name: "with full targets", clients: few, requests: 500, time: time.Second, queues: true, full: true, change: func(u *hostproxy.Upstream) {
			u.MaxTargetInFlight, u.Queue = few/8, hostproxy.Queue{Max: few, Wait: proxytest.Patience}
		}},
	} {
		t.Run(c.name, c.run)
	}
}

func (c *chaos) run(t *testing.T) {
	l := &ledger{moody: c.moody, seen: make(map[string]int)}
	var addrs []string
	var faults []*proxytest.Fault
	for i := range chaosTargets {
		f := proxytest.NewFault(t, proxytest.NewServer(t, l.serve(i)).Addr())
		faults, addrs = append(faults, f), append(addrs, f.Addr())
	}
	u := hostproxy.To(addrs...)
	u.Retry = hostproxy.Retry{Attempts: chaosTargets, Budget: -1, Timeout: -1}
	u.ResponseHeaderTimeout, u.IdleTimeout = chaosPatience, chaosPatience
	u.Breaker = &hostproxy.Breaker{Failures: 10, OpenFor: 100 * time.Millisecond}
	u.TargetChanged = func(*hostproxy.Target, hostproxy.Health) {}
	c.change(u)
	conf, roots := proxytest.TLS(t, "a.test")
	var waited atomic.Int64
	r := &hostproxy.Router{Observe: func(x *hostproxy.Exchange) {
		if x.Queue > 0 {
			waited.Add(1)
		}
	}}
	r.TLS.Config = conf
	r.Handle("a.test", u)
	before := files(t)
	plain := proxytest.StartPlain(t, &hostproxy.Server{Router: r})
	secure := proxytest.Start(t, &hostproxy.Server{Router: r})

	stop := troubled(faults[1:])
	all := c.ask(t, plain, secure, roots)
	stop()
	failed, cut := l.refusals(), 0
	for _, f := range faults {
		n, m := f.Harm()
		failed, cut = failed+int(n), cut+int(m)
	}
	t.Logf("%d requests, %d failures of targets: %d of %d answers that could be were cut off, %d requests failed, %d waited for room",
		all.asked, failed, all.broken, cut, all.unlucky, waited.Load())
	assert.Empty(t, all.wrong)
	assert.Greater(t, all.asked, 50)
	assert.LessOrEqual(t, all.broken, cut, "more answers cut off than there were cuts")
	if !c.full {
		assert.LessOrEqual(t, all.broken+all.unlucky, failed, "more requests failed than targets did")
	}
	assert.Equal(t, c.queues, waited.Load() > 0, "requests waited")
	for target := range u.All() {
		proxytest.Eventually(t, "rest at "+target.String(), func() bool { return target.InFlight() == 0 })
	}
	proxytest.Eventually(t, "the queue to be empty", func() bool { return queued(t, r) == 0 })
	require.NoError(t, plain.Stop())
	require.NoError(t, secure.Stop())
	proxytest.Eventually(t, "all files to be closed", func() bool { return files(t) <= before })
	again := l.check(t)
	assert.True(t, again > 0 || c.full, "nothing was sent again")
}

// ask lets clients send requests to both servers at once, over each protocol,
// and returns the sum of their results.
func (c *chaos) ask(t testing.TB, plain, secure *proxytest.Running, roots *x509.CertPool) (all chaosClient) {
	var clients []*chaosClient
	var next atomic.Int64
	var busy sync.WaitGroup
	const least = 300 // requests that are sent even on a busy machine
	end := time.Now().Add(c.time)
	for i := range c.clients {
		k := &chaosClient{random: rand.New(rand.NewPCG(uint64(i), 1)), lenient: c.full}
		switch i % 3 {
		case 0:
			k.Client, k.url = proxytest.HTTPClient(t, secure.HTTPS, roots, "h2"), "https://a.test"
		case 1:
			k.Client, k.url = proxytest.HTTPClient(t, secure.HTTPS, roots, "h1"), "https://a.test"
		default:
			k.Client, k.url = proxytest.HTTPClient(t, plain.Plain, nil, "h1"), "http://a.test"
		}
		clients = append(clients, k)
		busy.Go(func() {
			for n := next.Add(1); n <= int64(c.requests) && (n <= least || time.Now().Before(end)); n = next.Add(1) {
				k.ask(strconv.FormatInt(n, 10))
			}
		})
	}
	busy.Wait()
	for _, k := range clients {
		all.asked, all.broken, all.unlucky = all.asked+k.asked, all.broken+k.broken, all.unlucky+k.unlucky
		all.wrong = append(all.wrong, k.wrong...)
		k.CloseIdleConnections()
	}
	return all
}

// troubled changes one of faults at intervals, until stop is called.
func troubled(faults []*proxytest.Fault) (stop func()) {
	over, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		random := rand.New(rand.NewPCG(7, 7))
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				faults[random.IntN(len(faults))].Change(random)
			case <-over:
				return
			}
		}
	}()
	return func() { close(over); <-done }
}

// queued returns how many requests wait in r's queues.
func queued(t testing.TB, r *hostproxy.Router) (n int) {
	t.Helper()
	w := httptest.NewRecorder()
	hostproxy.StatusHandler(r).ServeHTTP(w, httptest.NewRequest("GET", "/?format=json", nil))
	var page struct{ Routes []struct{ Queued int } }
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &page))
	require.Len(t, page.Routes, 1)
	return page.Routes[0].Queued
}

// files counts open files. It collects garbage first, so that package net
// closes the unused pipes of splice.
func files(t testing.TB) int {
	t.Helper()
	runtime.GC()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc to count files in")
	}
	return len(all)
}
