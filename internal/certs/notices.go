package certs

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// noticePause is how long the routes are to be at rest before settings that
// nothing uses are noticed: a program may open its listener before it adds
// routes.
const noticePause = time.Second

// noticeLast is how long they are waited for at most.
const noticeLast = 10 * time.Second

// notices say that a setting has nothing to act on, since the routes that it is
// for are not there: no error, since they may come later.
type notices struct {
	manager *Manager
	checked atomic.Bool // whether there are routes at all

	mu       sync.Mutex
	timer    *time.Timer // runs look; nil until the first change
	since    time.Time   // of the first change that look has not seen; zero if there is none
	homeless bool        // no route serves DefaultHost, which has been said
	idle     bool        // HostPolicy had nothing to decide, which has been said
	wild     string      // a wildcard that had a route
}

// later looks at the settings when the routes have come to rest.
func (n *notices) later() {
	if o := &n.manager.options; o.DefaultHost == "" && o.Policy == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	if n.since.IsZero() {
		n.since = now
	}
	switch {
	case n.timer == nil:
		n.timer = time.AfterFunc(noticePause, func() { n.manager.spawn(n.check) })
	case now.Sub(n.since) < noticeLast:
		n.timer.Reset(noticePause)
	}
}

// close ends it. What look does then, spawn refuses.
func (n *notices) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.timer != nil {
		n.timer.Stop()
	}
}

// check logs each setting that nothing uses, once until something does.
func (n *notices) check() {
	m := n.manager
	n.mu.Lock()
	defer n.mu.Unlock()
	n.since = time.Time{}
	if host := m.options.DefaultHost; host != "" {
		homeless := !m.routing.served(host)
		if homeless && !n.homeless {
			m.log.Warn("no route serves TLS.DefaultHost; clients without a server name are refused", "host", host,
				"remedy", "add a route for it, or correct TLS.DefaultHost")
		}
		n.homeless = homeless
	}
	if m.options.Policy != nil && !n.idle && !n.hasWildcard() {
		m.log.Warn("TLS.HostPolicy has no effect: no route has a wildcard",
			"remedy", "add a route for a wildcard such as *.example.com, or unset TLS.HostPolicy")
		n.idle = true
	}
}

// refused is told of each handshake for a host without a route. A server of the
// program logs it in words of crypto/tls that say nothing of routes: if there
// are none at all at the first one, that is said here.
func (n *notices) refused(name string) {
	if n.checked.Load() || n.checked.Swap(true) {
		return
	}
	for range n.manager.options.Hosts() {
		return
	}
	n.manager.log.Warn("handshakes are refused: the Router has no routes", "host", name, "remedy", "add one with Router.Handle, Set or Replace")
}

// hasWildcard reports whether any pattern is a wildcard. n.mu is held.
func (n *notices) hasWildcard() bool {
	o := &n.manager.options
	if n.wild != "" && o.Wants(n.wild) {
		return true
	}
	n.wild = ""
	for pattern := range o.Hosts() {
		if strings.HasPrefix(pattern, "*") && o.Wants(pattern) {
			n.wild = pattern
			return true
		}
	}
	return false
}
