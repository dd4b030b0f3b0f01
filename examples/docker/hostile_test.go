package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestARequestToADaemonThatNeverAnswersTimesOut(t *testing.T) {
	d := newDaemon(t)
	ln, err := net.Listen("unix", d.socket)
	require.NoError(t, err)
	accepted := make(chan net.Conn, 100)
	go func() {
		for c, err := ln.Accept(); err == nil; c, err = ln.Accept() {
			accepted <- c
		}
		close(accepted)
	}()
	r := follow(t, d, func(_ *proxy, e *engine) {
		e.client.Transport.(*http.Transport).ResponseHeaderTimeout = 30 * time.Millisecond
	})
	defer (<-accepted).Close()
	defer (<-accepted).Close() // the proxy tries again
	r.says("timeout awaiting response headers")
	require.NoError(t, ln.Close())
	for c := range accepted {
		c.Close()
	}
	d.set(newBox("a", service(t, "one"), "hostproxy.host=a.test")).start()
	r.becomes("a.test/", "200 one")
}

func TestADaemonWhoseEventsEndAtOnceIsNotHammered(t *testing.T) {
	d := newDaemon(t).set(newBox("a", service(t, "one"), "hostproxy.host=a.test")).start()
	var asked atomic.Int64
	d.answer(func(_ http.ResponseWriter, q *http.Request) bool {
		if q.URL.Path != "/events" {
			return false
		}
		asked.Add(1)
		return true
	})
	r := follow(t, d)
	r.becomes("a.test/", "200 one")
	d.set(newBox("b", service(t, "two"), "hostproxy.host=b.test"))
	r.becomes("b.test/", "200 two")
	assert.Less(t, asked.Load(), int64(12))
}

func TestEndlessEventsDelayNoRequestAndNoChange(t *testing.T) {
	d := newDaemon(t).set(newBox("a", service(t, "one"), "hostproxy.host=a.test")).start()
	d.answer(func(w http.ResponseWriter, q *http.Request) bool {
		if q.URL.Path != "/events" {
			return false
		}
		for i := 0; q.Context().Err() == nil; i++ {
			_, err := fmt.Fprintf(w, "\n{\"Action\":\"kill\",\"Actor\":{\"ID\":\"x%d\",\"Attributes\":{\"signal\":\"15\"}}}\n", i)
			if err != nil {
				break
			}
		}
		return true
	})
	r := follow(t, d)
	r.becomes("a.test/", "200 one")
	d.set(newBox("b", service(t, "two"), "hostproxy.host=b.test"))
	r.becomes("b.test/", "200 two")
	assert.NotContains(t, r.log.String(), "not JSON")
	r.proxy.mu.Lock()
	defer r.proxy.mu.Unlock()
	assert.LessOrEqual(t, len(r.proxy.stopping), maxStopping)
}

func TestADaemonThatHangsIsAskedForFewContainers(t *testing.T) {
	t.Parallel()
	d := newDaemon(t).set(newBox("a", service(t, "one"), "hostproxy.host=a.test")).start()
	r := follow(t, d, func(_ *proxy, e *engine) { e.patience = 200 * time.Millisecond })
	r.becomes("a.test/", "200 one")
	var asked atomic.Int64
	d.answer(func(_ http.ResponseWriter, q *http.Request) bool {
		if !strings.HasPrefix(q.URL.Path, "/containers/b") {
			return false
		}
		asked.Add(1)
		<-q.Context().Done()
		return true
	})
	for i := range 100 {
		d.set(newBox(fmt.Sprint("b", i), "127.0.0.1:1", fmt.Sprintf("hostproxy.host=b%d.test", i)))
	}
	d.event("start", "b1", "")
	r.says(errHangs.Error())
	assert.LessOrEqual(t, asked.Load(), int64(2*atOnce))
	assert.Equal(t, "200 one /", r.ask("a.test/"))
}

func TestAContainerThatKeepsRestartingDisturbsNoOther(t *testing.T) {
	t.Parallel()
	proxytest.NoLeaks(t)
	d := newDaemon(t).set(newBox("a", service(t, "one"), "hostproxy.host=a.test,shared.test")).start()
	r := follow(t, d)
	r.becomes("a.test/", "200 one")
	flaps := newBox("f", service(t, "flaps"), "hostproxy.host=f.test,shared.test")
	for i := range 50 {
		n := d.listed()
		if i%2 == 0 {
			d.set(flaps)
			d.event("start", "f", "")
		} else {
			d.event("kill", "f", "15")
			d.set(flaps.with("State.Status", "restarting"))
			d.event("die", "f", "")
		}
		proxytest.Eventually(t, "a look at the containers", func() bool { return d.listed() > n })
		assert.Equal(t, "200 one /", r.ask("a.test/"))
		assert.Contains(t, r.ask("shared.test/"), "200 ")
	}
	r.becomes("f.test/", "503 ")
	d.set(flaps)
	d.event("start", "f", "")
	r.becomes("f.test/", "200 flaps")
}

func TestTheOnlyContainerOfAHostFinishesItsRequestsWhenItStops(t *testing.T) {
	release := make(chan struct{})
	slow := proxytest.NewServer(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/" {
			select {
			case <-release:
			case <-q.Context().Done():
			}
		}
		_, _ = io.WriteString(w, "slow")
	}))
	d := newDaemon(t).set(newBox("a", slow.Addr(), "hostproxy.host=a.test")).start()
	r := follow(t, d)
	r.says("a.test")
	answer := make(chan string, 1)
	go func() { answer <- r.ask("a.test/") }()
	proxytest.Eventually(t, "the request is at the container", func() bool { return len(slow.Seen()) > 0 })
	d.event("kill", "a", "15")
	r.becomes("a.test/new", "503 ")
	d.remove("a")
	d.event("die", "a", "")
	r.becomes("a.test/new", "404 ")
	close(release)
	assert.Equal(t, "200 slow", <-answer)
}

func TestARedirectOfTheDaemonIsNotFollowed(t *testing.T) {
	other := proxytest.NewServer(t, nil)
	d := newDaemon(t).start()
	d.answer(func(w http.ResponseWriter, q *http.Request) bool {
		http.Redirect(w, q, "http://"+other.Addr()+q.URL.Path, http.StatusMovedPermanently)
		return true
	})
	r := follow(t, d)
	r.says("status 301")
	assert.Empty(t, other.Seen())
}

// The labels contain bytes that are special in the log, in HTTP or in JSON.
func TestEachHostileLabelIsOneLineOfTheLog(t *testing.T) {
	d := newDaemon(t).set(newBox("a", service(t, "one"), "hostproxy.host=a.test")).start()
	n := 0
	for _, key := range []string{"host", "path", "port", "health", "strip", "scheme", "network", "a\nlevel=ERROR msg=forged"} {
		for _, value := range []string{"a\nlevel=ERROR msg=forged", "\x00", "/\r\nX: y", "\xff\xfe", "\u202egnp.test", strings.Repeat("x", 10_000), "*", "-1", "a.test/../b"} {
			n++
			d.set(newBox(fmt.Sprint("h", n), "127.0.0.1:1", "hostproxy.host=b.test", "hostproxy."+key+"="+value))
		}
	}
	r := follow(t, d)
	r.becomes("a.test/", "200 one")
	log := r.log.String()
	for line := range strings.Lines(log) {
		assert.True(t, strings.HasPrefix(line, "time="), line)
		assert.Less(t, len(line), 4000)
		assert.NotContains(t, line, " level=ERROR")
	}
	assert.Greater(t, strings.Count(log, "container refused"), n/2)
}

func TestANewVersionWithOtherLabelsTakesOverWhenTheOldOneStops(t *testing.T) {
	d := newDaemon(t).set(newBox("old", service(t, "old"), "hostproxy.host=a.test")).start()
	r := follow(t, d)
	r.becomes("a.test/", "200 old")
	d.set(newBox("new", service(t, "new"), "hostproxy.host=a.test", "hostproxy.health=/up").with("Created", "2026-01-02T00:00:00Z"))
	d.event("start", "new", "")
	r.says("make the labels equal")
	assert.Equal(t, "200 old /", r.ask("a.test/"))
	d.event("kill", "old", "15") // it takes its time to stop
	r.becomes("a.test/", "200 new")
	d.remove("old")
	d.event("die", "old", "")
	for range 20 {
		assert.Equal(t, "200 new /", r.ask("a.test/"))
	}
}
