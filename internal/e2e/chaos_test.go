package e2e_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
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

// What the chaos is made of.
const (
	chaosTargets  = 4 // of which the first is well
	chaosRequests = 10_000
	chaosTime     = 20 * time.Second // for a slow machine, fewer requests do
	chaosKept     = 32 << 10         // larger bodies are not sent again
)

// content is what belongs to a request and to no other.
func content(id string, size int) []byte {
	b := make([]byte, 0, size+sha256.Size)
	for sum := sha256.Sum256([]byte(id)); len(b) < size; sum = sha256.Sum256(sum[:]) {
		b = append(b, sum[:]...)
	}
	return b[:size]
}

// A ledger is what the backends saw.
type ledger struct {
	mu   sync.Mutex
	seen map[string]map[int]bool // backends, by method and request
}

// serve answers with the content that belongs to the request, of the size that it asks for.
func (l *ledger) serve(backend int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		id := q.Header.Get("X-Id")
		key := q.Method + " " + id
		l.mu.Lock()
		if l.seen[key] == nil {
			l.seen[key] = make(map[int]bool)
		}
		l.seen[key][backend] = true
		l.mu.Unlock()
		got, err := io.ReadAll(q.Body)
		if err != nil {
			return
		}
		if want, _ := strconv.Atoi(q.Header.Get("X-Sent")); !bytes.Equal(got, content("request "+id, want)) {
			w.WriteHeader(400)
			return
		}
		size, _ := strconv.Atoi(q.URL.Query().Get("size"))
		w.Header().Set("X-Id", id)
		w.Header().Set("Content-Length", strconv.Itoa(size))
		_, _ = w.Write(content("response "+id, size))
	})
}

// A chaosClient sends requests and judges what comes back.
type chaosClient struct {
	*http.Client
	url    string
	random *rand.Rand

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
	q.GetBody = nil // net/http's client is to send it once
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
		c.broken++ // cut off, and the client can see it
	case method != "HEAD" && !bytes.Equal(got, want):
		c.wrong = append(c.wrong, "bytes of another answer for "+id)
	}
}

// failed notes an exchange without an answer, which only some may have.
func (c *chaosClient) failed(method string, sent int, what string) {
	if method == "POST" || sent > chaosKept {
		c.unlucky++
		return
	}
	c.wrong = append(c.wrong, what)
}

// Whatever three of four targets do, every request that can be answered is, no answer is another's, nothing is carried out
// twice that must not be, and nothing is left behind.
func TestTheServiceSurvivesItsTargets(t *testing.T) {
	l := &ledger{seen: make(map[string]map[int]bool)}
	var addrs []string
	var faults []*proxytest.Fault
	for i := range chaosTargets {
		f := proxytest.NewFault(t, proxytest.NewServer(t, l.serve(i)).Addr())
		faults, addrs = append(faults, f), append(addrs, f.Addr())
	}
	u := hostproxy.To(addrs...)
	u.Retry = hostproxy.Retry{Attempts: chaosTargets, Budget: -1, Timeout: -1}
	u.ResponseHeaderTimeout, u.IdleTimeout = chaosPatience, 2*time.Second
	u.Breaker = &hostproxy.Breaker{Failures: 10, For: 100 * time.Millisecond}
	u.TargetChanged = func(*hostproxy.Target, hostproxy.Health) {}
	conf, roots := proxytest.TLS(t, "a.test")
	r := &hostproxy.Router{Observe: func(*hostproxy.Exchange) {}}
	r.TLS.Config = conf
	r.Handle("a.test", u)
	before := sockets(t)
	plain := proxytest.StartPlain(t, &hostproxy.Server{Router: r})
	secure := proxytest.Start(t, &hostproxy.Server{Router: r})

	stop, changed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(changed)
		random := rand.New(rand.NewPCG(7, 7))
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				faults[1+random.IntN(chaosTargets-1)].Change(random)
			case <-stop:
				return
			}
		}
	}()
	var clients []*chaosClient
	var next atomic.Int64
	var all sync.WaitGroup
	end := time.Now().Add(chaosTime)
	for i := range chaosClients {
		c := &chaosClient{random: rand.New(rand.NewPCG(uint64(i), 1))}
		switch i % 3 {
		case 0:
			c.Client, c.url = proxytest.HTTPClient(t, secure.HTTPS, roots, "h2"), "https://a.test"
		case 1:
			c.Client, c.url = proxytest.HTTPClient(t, secure.HTTPS, roots, "h1"), "https://a.test"
		default:
			c.Client, c.url = proxytest.HTTPClient(t, plain.Plain, nil, "h1"), "http://a.test"
		}
		clients = append(clients, c)
		all.Go(func() {
			for n := next.Add(1); n <= chaosRequests && time.Now().Before(end); n = next.Add(1) {
				c.ask(strconv.FormatInt(n, 10))
			}
		})
	}
	all.Wait()
	close(stop)
	<-changed

	asked, broken, unlucky := 0, 0, 0
	for _, c := range clients {
		assert.Empty(t, c.wrong)
		asked, broken, unlucky = asked+c.asked, broken+c.broken, unlucky+c.unlucky
		c.CloseIdleConnections()
	}
	t.Logf("%d requests: %d answers cut off, %d that could not be sent again", asked, broken, unlucky)
	assert.Greater(t, asked, 200)
	assert.Less(t, broken+unlucky, asked/2)
	twice := 0
	for request, backends := range l.seen {
		if len(backends) > 1 {
			twice++
			assert.NotContains(t, request, "POST", "it may have been carried out twice")
		}
	}
	assert.Positive(t, twice, "something was sent again")
	for target := range u.All() {
		proxytest.Eventually(t, "rest at "+target.String(), func() bool { return target.InFlight() == 0 })
	}
	require.NoError(t, plain.Stop())
	require.NoError(t, secure.Stop())
	proxytest.Eventually(t, "all sockets to be closed", func() bool { return sockets(t) <= before })
}

// sockets counts sockets. The pipes that splice needs are net's own, which keeps some.
func sockets(t testing.TB) (n int) {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc to count files in")
	}
	for _, f := range all {
		if what, _ := os.Readlink("/proc/self/fd/" + f.Name()); strings.HasPrefix(what, "socket:") {
			n++
		}
	}
	return n
}
