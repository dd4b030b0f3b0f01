package guard_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/examples/deploy/guard"
)

// RoundTripFunc is a target in the form of a func.
type RoundTripFunc func(*http.Request) (*http.Response, error)

func (f RoundTripFunc) RoundTrip(q *http.Request) (*http.Response, error) { return f(q) }

// A dribble is a body that takes a second per byte.
type dribble struct{ left int }

func (d *dribble) Read(p []byte) (int, error) {
	rest(time.Second)
	if d.left == 0 {
		return 0, io.EOF
	}
	d.left--
	p[0] = 'x'
	return 1, nil
}

// ask sends a request from a client address.
func (w *world) ask(method, url, from string, body io.Reader) {
	q := httptest.NewRequest(method, "https://"+pattern+url, body)
	q.RemoteAddr = from + ":1234"
	w.router.ServeHTTP(httptest.NewRecorder(), q)
}

// watched replaces before by after while visit and a few other clients send
// requests. It returns the verdict.
func (w *world) watched(visit func()) error {
	result := make(chan error, 1)
	go func() { result <- w.meter.Replace(context.Background(), pattern, w.app, guard.Limits{}, after) }()
	rest(100 * time.Millisecond)
	over := make(chan bool)
	go func() { visit(); close(over) }()
	w.visits(30, 700*time.Millisecond)
	<-over
	return <-result
}

// visits sends n requests of several clients.
func (w *world) visits(n int, pause time.Duration) {
	for i := range n {
		w.ask("GET", "/", fmt.Sprint("198.51.100.", i%9), nil)
		rest(pause)
	}
}

func TestASlowUploadDoesNotCountAgainstATarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.visits(100, 0)
		w.ask("POST", "/", "192.0.2.1", nil)
		require.NoError(t, w.watched(func() {
			for range 10 {
				go w.ask("POST", "/", "192.0.2.1", &dribble{left: 3})
				rest(300 * time.Millisecond)
			}
			rest(5 * time.Second)
		}))
		assert.Equal(t, []string{after}, guard.Names(w.app))
		require.NoError(t, w.router.Close())
	})
}

func TestASlowReaderDoesNotCountAgainstATarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.app.Transport = RoundTripFunc(func(q *http.Request) (*http.Response, error) {
			if q.URL.Path != "/file" {
				return w.RoundTrip(q)
			}
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(&dribble{left: 4}), Request: q}, nil
		})
		w.visits(100, 0)
		w.ask("GET", "/file", "192.0.2.1", nil)
		require.NoError(t, w.watched(func() {
			for range 10 {
				go w.ask("GET", "/file", "192.0.2.1", nil)
				rest(300 * time.Millisecond)
			}
			rest(5 * time.Second)
		}))
		require.NoError(t, w.router.Close())
	})
}

func TestARequestThatAlwaysFailsProvesNothing(t *testing.T) {
	for _, tt := range []struct {
		about   string
		before  string // request that the old target gets
		ask     string
		clients int // number of clients that send the request to the new target
		worse   bool
	}{
		{"the old target failed it too", "/broken", "/broken", 30, false},
		{"one client finds it", "/", "/broken", 1, false},
		{"many clients find it", "/", "/broken", 30, true},
		{"one client breaks what works for others", "/", "/", 1, false},
		{"many clients break it", "/", "/", 30, true},
	} {
		t.Run(tt.about, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.app.Transport = RoundTripFunc(func(q *http.Request) (*http.Response, error) {
					if q.URL.Path == "/broken" || q.Method == "GET" && q.ContentLength > 0 {
						return &http.Response{StatusCode: 500, Header: http.Header{}, Body: http.NoBody, Request: q}, nil
					}
					return w.RoundTrip(q)
				})
				w.visits(100, 0)
				w.ask("GET", tt.before, "192.0.2.99", nil)
				err := w.watched(func() {
					for i := range 30 {
						w.ask("GET", tt.ask, fmt.Sprint("192.0.2.", 1+i%tt.clients), strings.NewReader("x"))
					}
				})
				_, worse := errors.AsType[*guard.WorseError](err)
				assert.Equal(t, tt.worse, worse, err)
				require.NoError(t, w.router.Close())
			})
		})
	}
}

func TestAURLThatWasAlwaysSlowProvesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.app.Transport = RoundTripFunc(func(q *http.Request) (*http.Response, error) {
			if strings.HasPrefix(q.URL.Path, "/report") {
				rest(2 * time.Second)
			}
			return w.RoundTrip(q)
		})
		w.visits(200, 0)
		w.ask("GET", "/report", "192.0.2.1", nil)
		require.NoError(t, w.watched(func() {
			for range 10 {
				w.ask("GET", "/report", "192.0.2.1", nil)
				w.ask("GET", "/report/new", "192.0.2.1", nil)
			}
		}))
		require.NoError(t, w.router.Close())
	})
}

func TestStreamsDoNotHideATargetThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.app.Transport = RoundTripFunc(func(q *http.Request) (*http.Response, error) {
			if q.URL.Path != "/events" {
				return w.RoundTrip(q)
			}
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(&dribble{left: 60}), Request: q}, nil
		})
		for range 20 {
			q := httptest.NewRequest("GET", "https://"+pattern+"/events", nil)
			q.Header.Set("Accept", "text/event-stream")
			go w.router.ServeHTTP(httptest.NewRecorder(), q)
		}
		rest(2 * time.Minute)
		w.visits(100, 0)
		b := w.meter.Baseline(pattern, before)
		assert.Less(t, b.Whole, time.Second)
		require.NoError(t, w.router.Close())
	})
}
