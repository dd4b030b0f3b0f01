package certs

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hostproxy/hostproxy/internal/hostname"
)

// checkTLS checks the settings for TLSConfig.
func (m *Manager) checkTLS() error {
	o := &m.options
	errs := []error{o.Fault, checkConfig(o.Config, m.choices != nil)}
	if o.DefaultHost != "" {
		var err error
		o.DefaultHost, err = hostname.Canonical(o.DefaultHost)
		errs = append(errs, wrap("DefaultHost", err))
	}
	if o.Policy == nil && o.PolicyTTL != 0 {
		errs = append(errs, errors.New("HostPolicyTTL requires HostPolicy: set both or neither"))
	}
	if base := o.Config; base != nil && o.ShareTickets {
		if base.SessionTicketsDisabled {
			errs = append(errs, errors.New("ShareTickets cannot be combined with Config.SessionTicketsDisabled: set only one of them"))
		}
		if base.GetConfigForClient != nil {
			errs = append(errs, errors.New("ShareTickets cannot be combined with Config.GetConfigForClient: set only one of them, "+
				"or call SetSessionTicketKeys on the settings that the function returns"))
		}
	}
	return errors.Join(errs...)
}

// checkConfig checks the base settings. hooked means that the program says per
// host how TLS is done.
func checkConfig(base *tls.Config, hooked bool) error {
	if base == nil {
		return nil
	}
	var errs []error
	if base.GetConfigForClient != nil && hooked {
		errs = append(errs, errors.New("Config.GetConfigForClient cannot be combined with Host: set only one of them"))
	}
	if least := cmp.Or(base.MinVersion, tls.VersionTLS12); base.MaxVersion != 0 && base.MaxVersion < least {
		errs = append(errs, fmt.Errorf("Config.MaxVersion is %s, below the minimum of %s: raise it, or lower MinVersion",
			tls.VersionName(base.MaxVersion), tls.VersionName(least)))
	}
	if p := base.NextProtos; len(p) > 0 && !slices.Contains(p, "h2") && !slices.Contains(p, "http/1.1") {
		errs = append(errs, fmt.Errorf("Config.NextProtos is %q: want h2, http/1.1 or both among them, or nil, which means both", p))
	}
	return errors.Join(errs...)
}

// check reports a half of a pair that is missing.
func (p KeyPair) check() error {
	if p.CertFile == "" || p.KeyFile == "" {
		return fmt.Errorf("CertFile is %q and KeyFile is %q: set both", p.CertFile, p.KeyFile)
	}
	return nil
}

// noticePause is how long the routes are to be at rest before settings that
// nothing uses are noticed: a program may open its listener before it adds routes.
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
		homeless := !m.served(host)
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
// program logs it in words of crypto/tls that say nothing of routes: if there are
// none at all at the first one, that is said here.
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

// served reports whether the TLS of a canonical host ends here, by the most
// specific pattern with a route.
func (m *Manager) served(host string) bool {
	for _, pattern := range [...]string{host, wildcardOf(host), "*"} {
		switch {
		case pattern == "":
		case m.options.Wants(pattern):
			return true
		case m.passes(pattern):
			return false
		}
	}
	return false
}

// passed reports whether the connections of a canonical host, or of a pattern, are
// carried elsewhere.
func (m *Manager) passed(host string) bool {
	for _, pattern := range [...]string{host, wildcardOf(host), "*"} {
		switch {
		case pattern == "":
		case m.options.Wants(pattern):
			return false
		case m.passes(pattern):
			return true
		}
	}
	return false
}

// passes reports whether the connections of exactly that pattern's route are
// carried elsewhere.
func (m *Manager) passes(pattern string) bool {
	return m.options.Passes != nil && m.options.Passes(pattern)
}
