package e2e_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A pattern is a body of n bytes, whose words contain seed: no two bodies share
// a word.
type pattern struct {
	seed uint64
	n    int
	at   int
}

func (p *pattern) Read(b []byte) (n int, err error) {
	for n < len(b) && p.at < p.n {
		var word [8]byte
		binary.BigEndian.PutUint64(word[:], p.seed<<32|uint64(p.at/8))
		k := copy(b[n:min(len(b), n+p.n-p.at)], word[p.at%8:])
		n, p.at = n+k, p.at+k
	}
	if p.at == p.n {
		err = io.EOF
	}
	return n, err
}

// verify reads r in pieces and returns an error where it differs from the
// pattern.
func (p *pattern) verify(r io.Reader, piece int) error {
	got, want := make([]byte, piece), make([]byte, piece)
	for {
		n, err := r.Read(got)
		if _, e := io.ReadFull(p, want[:n]); e != nil && n > 0 {
			return fmt.Errorf("too long: %w", e)
		}
		if string(got[:n]) != string(want[:n]) {
			return fmt.Errorf("another's bytes before %d: %x", p.at, got[:min(n, 16)])
		}
		if err == io.EOF {
			if p.at != p.n {
				return fmt.Errorf("looks whole at %d of %d", p.at, p.n)
			}
			return nil
		}
		if err != nil {
			return &interrupted{err}
		}
	}
}

// interrupted is the error of a body that did not end regularly.
type interrupted struct{ error }

// patterns checks the request's body and answers with another pattern, as the
// query says.
func patterns(wrong *atomic.Pointer[string]) http.HandlerFunc {
	return func(w http.ResponseWriter, q *http.Request) {
		v := q.URL.Query()
		num := func(name string) int {
			n, _ := strconv.Atoi(v.Get(name))
			return n
		}
		up := pattern{seed: uint64(num("seed")), n: num("up")}
		down := pattern{seed: uint64(num("seed")) | 1<<31, n: num("down")}
		if v.Has("early") {
			if v.Has("sized") {
				w.Header().Set("Content-Length", v.Get("down"))
			}
			_, _ = io.CopyBuffer(struct{ io.Writer }{w}, &down, make([]byte, 1+num("piece")))
			return
		}
		if err := up.verify(q.Body, 1+num("piece")); err != nil {
			if _, ok := err.(*interrupted); !ok {
				s := "upload " + q.URL.RawQuery + ": " + err.Error()
				wrong.Store(&s)
			}
			panic(http.ErrAbortHandler)
		}
		if v.Has("sized") {
			w.Header().Set("Content-Length", v.Get("down"))
		}
		if v.Has("flush") {
			_ = http.NewResponseController(w).Flush()
		}
		_, _ = io.CopyBuffer(struct{ io.Writer }{w}, &down, make([]byte, 1+num("piece")))
	}
}

// Many streams of all sizes run at once, and clients abandon some. Each of the
// others gets all of its own bytes, or an error.
func TestManyStreamsKeepTheirBytesApart(t *testing.T) {
	proxytest.NoLeaks(t)
	var wrong atomic.Pointer[string]
	h := patterns(&wrong)
	r := hostproxy.Router{Logger: silent()}
	plain := proxytest.NewServer(t, h)
	h2c := proxytest.NewH2CServer(t, h)
	r.Handle("fast.test", hostproxy.To(plain.Addr()))
	r.Handle("h2c.test", hostproxy.To("h2c://"+h2c.Addr()))
	r.Handle("own.test", h)
	odd := hostproxy.To(plain.Addr())
	odd.ModifyResponse = func(*http.Response) error { return nil }
	r.Handle("odd.test", odd)
	hosts := []string{"fast.test", "own.test", "odd.test", "h2c.test"}
	config, roots := proxytest.TLS(t, hosts...)
	r.TLS.Config = config
	server := proxytest.Start(t, &hostproxy.Server{Router: &r})
	var whole, left, cut atomic.Int64
	var work sync.WaitGroup
	for c := range 2 {
		client := proxytest.HTTPClient(t, server.HTTPS, roots, "h2")
		for g := range 40 {
			work.Go(func() {
				random := rand.New(rand.NewPCG(uint64(c), uint64(g)))
				for i := range 12 {
					seed := uint64(c*1_000_000 + g*1000 + i)
					size := func() int { return random.IntN(1 << (4 + random.IntN(16))) }
					up, down, piece := size(), size(), size()%40_000
					query := fmt.Sprintf("seed=%d&up=%d&down=%d&piece=%d", seed, up, down, piece)
					for _, flag := range []string{"&sized", "&flush"} {
						if random.IntN(2) == 0 {
							query += flag
						}
					}
					early := random.IntN(10) == 0
					if early {
						query += "&early"
					}
					ctx, cancel := context.WithCancel(t.Context())
					var body io.Reader = &pattern{seed: seed, n: up}
					q, _ := http.NewRequestWithContext(ctx, "POST", "https://"+hosts[random.IntN(len(hosts))]+"/?"+query, body)
					if random.IntN(2) == 0 {
						q.ContentLength = int64(up)
					}
					leaves := random.IntN(8) == 0
					if leaves && random.IntN(2) == 0 {
						cancel()
					}
					p, err := client.Do(q)
					if err == nil {
						want := pattern{seed: seed | 1<<31, n: down}
						if leaves {
							_, _ = io.CopyN(io.Discard, p.Body, int64(down/2))
						} else {
							err = want.verify(p.Body, 1+size()%8000)
						}
						p.Body.Close()
					}
					cancel()
					switch in := (*interrupted)(nil); {
					case leaves:
						left.Add(1)
					case err == nil:
						whole.Add(1)
					case early && (errors.As(err, &in) || p == nil):
						cut.Add(1)
					default:
						t.Errorf("%s: %v", q.URL, err)
					}
				}
			})
		}
	}
	work.Wait()
	if s := wrong.Load(); s != nil {
		t.Error(*s)
	}
	t.Logf("%d whole, %d left, %d cut", whole.Load(), left.Load(), cut.Load())
	assert.Positive(t, whole.Load())
	require.NoError(t, server.Stop())
}
