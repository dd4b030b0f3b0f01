package http3_test

import (
	"io"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/examples/http3"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// endless writes until a write fails, and sends the error to failed.
func endless(failed chan<- error) http.HandlerFunc {
	return func(w http.ResponseWriter, q *http.Request) {
		p := make([]byte, 32<<10)
		for {
			if _, err := w.Write(p); err != nil {
				failed <- err
				return
			}
		}
	}
}

func TestAClientThatAcceptsNothingIsCutOff(t *testing.T) {
	proxytest.NoLeaks(t)
	failed := make(chan error, 1)
	s := newSite(t, "a.test")
	http3.SetStall(s.own, 100*time.Millisecond)
	s.router.Handle("a.test", endless(failed))
	s.start(t)
	res, err := s.client(t, "h3").Get("https://a.test/")
	require.NoError(t, err)
	defer res.Body.Close()
	late := time.NewTimer(proxytest.Patience)
	defer late.Stop()
	select {
	case err := <-failed:
		assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
	case <-late.C:
		require.Fail(t, "the handler still writes")
	}
	_, err = io.Copy(io.Discard, res.Body)
	assert.Error(t, err, "what was sent must not look like a whole response")
	assert.NotErrorIs(t, err, io.EOF)
}

// The handler takes longer than the limit in all, and so does a single write.
func TestASlowClientIsServed(t *testing.T) {
	const all = 8 << 20
	s := newSite(t, "a.test")
	http3.SetStall(s.own, 400*time.Millisecond)
	failed := make(chan error, 1)
	s.router.Handle("a.test", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		_, err := w.Write(make([]byte, all))
		failed <- err
	}))
	s.start(t)
	res, err := s.client(t, "h3").Get("https://a.test/")
	require.NoError(t, err)
	defer res.Body.Close()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	n, begin := int64(0), time.Now()
	for time.Since(begin) < time.Second {
		<-tick.C
		k, err := io.CopyN(io.Discard, res.Body, 32<<10)
		require.NoError(t, err)
		n += k
	}
	require.Less(t, n, int64(all-1<<20), "the client was too fast for the test")
	k, err := io.Copy(io.Discard, res.Body)
	require.NoError(t, err)
	assert.EqualValues(t, all, n+k)
	assert.NoError(t, <-failed)
}

func TestAWriteDeadlineOfTheHandlerReplacesTheLimit(t *testing.T) {
	s := newSite(t, "a.test")
	http3.SetStall(s.own, time.Millisecond)
	failed := make(chan error, 1)
	const own = 300 * time.Millisecond
	s.router.Handle("a.test", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(own))
		endless(failed)(w, q)
	}))
	s.start(t)
	begin := time.Now()
	res, err := s.client(t, "h3").Get("https://a.test/")
	require.NoError(t, err)
	defer res.Body.Close()
	assert.ErrorIs(t, <-failed, os.ErrDeadlineExceeded)
	assert.GreaterOrEqual(t, time.Since(begin), own)
}

// Time that a handler spends computing does not count against the client.
func TestAHandlerMayPauseForLongerThanTheLimit(t *testing.T) {
	s := newSite(t, "a.test")
	http3.SetStall(s.own, 20*time.Millisecond)
	s.router.Handle("a.test", http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		for range 2 {
			_, _ = io.WriteString(w, "part ")
			_ = http.NewResponseController(w).Flush()
			pause := time.NewTimer(60 * time.Millisecond)
			<-pause.C
		}
		w.Header().Set(http.TrailerPrefix+"X-End", "1")
	}))
	s.start(t)
	q, err := http.NewRequest("GET", "https://a.test/", nil)
	require.NoError(t, err)
	got := ask(t, s.client(t, "h3"), q)
	assert.Equal(t, "part part ", got.Body)
	assert.Equal(t, "1", got.Trailer.Get("X-End"))
}
