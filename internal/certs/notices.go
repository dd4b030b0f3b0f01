package certs

import (
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hostproxy/hostproxy/internal/hostname"
)

// noticePause is how long the routes must stay unchanged before unused settings
// are reported: a program may open its listener before it adds routes.
const noticePause = time.Second

// noticeLast is the longest wait for that.
const noticeLast = 10 * time.Second

// notices log settings that have no effect because the matching routes are
// missing. This is not an error, since routes may be added later.
type notices struct {
	manager *Manager
	checked atomic.Bool // whether a refused handshake led to a check for routes

	// Whether unsigned has logged an error, and a name that a client made up.
	// The first host of each kind is logged, since clients choose the names.
	barren, odd atomic.Bool
	undecided   atomic.Bool // undemanded has logged

	mu       sync.Mutex
	timer    *time.Timer // runs check; nil until the first change
	since    time.Time   // first change that check has not seen; zero if there is none
	homeless bool        // no route serves DefaultHost; logged
	idle     bool        // HostPolicy has nothing to decide; logged
	wild     string      // a wildcard that had a route
}

// later schedules check for when the routes stay unchanged.
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

// close stops the timer. If check is just starting, spawn refuses it.
func (n *notices) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.timer != nil {
		n.timer.Stop()
	}
}

// check logs each setting that has no effect, once until it has one.
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

// refused is called for each handshake for a host without a route. The
// program's own server logs it with a message of crypto/tls that does not
// mention routes; so if there are no routes at all at the first refusal, that
// is logged here.
func (n *notices) refused(name string) {
	if n.checked.Load() || n.checked.Swap(true) {
		return
	}
	for range n.manager.options.Hosts() {
		return
	}
	n.manager.log.Warn("handshakes are refused: the Router has no routes", "host", name, "remedy", "add one with Router.Handle, Set or Replace")
}

// unsigned is called for each handshake for a host that no route names, and for
// which no issuer can sign. If the host is a public name and there is a
// HostPolicy, that is a fault of the program: no such host can get a
// certificate. Otherwise it may be any name that a client made up.
func (n *notices) unsigned(name string, why error) {
	level, logged := slog.LevelInfo, &n.odd
	if n.manager.options.Policy != nil && hostname.Unsignable(name) == "" {
		level, logged = slog.LevelError, &n.barren
	}
	if logged.Load() || logged.Swap(true) {
		level = slog.LevelDebug
	}
	n.manager.log.Log(n.manager.ctx, level, "no certificate possible", "host", name, "cause", why)
}

// undemanded is called for each handshake for a host that only a wildcard
// matches, if there is no HostPolicy. It logs the first public name: that
// client was refused, though a route serves its host. There is no earlier line
// and no error, since a program may mean "*" for internal names or plain HTTP,
// and such a program rarely gets a handshake for a public name.
func (n *notices) undemanded(name string) {
	if n.undecided.Load() {
		return
	}
	if why := n.manager.routing.refusal(name); why != nil {
		n.unsigned(name, why)
		return
	}
	if !n.undecided.Swap(true) {
		n.manager.log.Warn("handshakes are refused: only a wildcard route matches the host, and TLS.HostPolicy is not set", "host", name,
			"remedy", "set TLS.HostPolicy, which allows on-demand certificates, or add a route that names the host")
	}
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
