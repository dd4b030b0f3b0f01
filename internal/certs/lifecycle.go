package certs

import (
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// openingTime is how long after TLSConfig the first CA is contacted: the
// program should have opened its listener by then.
const openingTime = 2 * time.Second

// A Keeper owns the certificates of one Router, from unused to open to closed
// and open again. The zero value costs nothing. Its methods may be called
// concurrently.
type Keeper struct {
	manager atomic.Pointer[Manager]
	choices atomic.Pointer[choices]
	ports   ports

	mu      sync.Mutex // serialises opening and closing
	config  *tls.Config
	passer  *Passer // for listeners without a Share; nil until one needs it
	epoch   int     // number of calls of Close
	shares  int     // Shares not released that began or listened after the last Close
	running int     // Shares not released
	held    bool    // a listener without a Share may be open

	// closed when the Manager that was closed last has ended; nil if there was
	// none
	closing chan struct{}
}

// Manager returns the Manager, nil if the Keeper is not open.
func (k *Keeper) Manager() *Manager { return k.manager.Load() }

// Changed reports that the routes of these host patterns have changed, so Wants
// may return something else. Without hosts, any may have changed. It does not
// block, and its cost depends on the hosts given.
func (k *Keeper) Changed(hosts ...string) {
	if m := k.manager.Load(); m != nil {
		m.Changed(hosts...)
	}
}

// Listening opens the Keeper until Close, for an open HTTPS listener that
// belongs to no Share. options is called if the Keeper is not open yet.
func (k *Keeper) Listening(https net.Addr, options func() Options) (*tls.Config, error) {
	k.ports.hold(https)
	return k.hold(0, options)
}

// TLSConfig is Listening for a listener that is about to open.
func (k *Keeper) TLSConfig(options func() Options) (*tls.Config, error) {
	return k.hold(openingTime, options)
}

func (k *Keeper) hold(grace time.Duration, options func() Options) (*tls.Config, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	conf, err := k.open(grace, options)
	k.held = k.held || err == nil
	return conf, err
}

// open makes a Manager if there is none. k.mu is held.
func (k *Keeper) open(grace time.Duration, options func() Options) (*tls.Config, error) {
	m := k.manager.Load()
	if m == nil {
		var err error
		if m, err = New(options()); err != nil {
			return nil, err
		}
		k.config = m.TLSConfig()
		k.choices.Store(m.choices)
		k.manager.Store(m)
		k.answer()
	}
	m.Start(grace)
	return k.config.Clone(), nil
}

// Pass wraps ln, a listener without a Share, so that connections of some hosts
// are forwarded with their TLS. The Passer is made by open if there is none
// yet.
func (k *Keeper) Pass(ln net.Listener, open func() *Passer) net.Listener {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.passer == nil {
		k.passer = open()
	}
	return k.passer.Listener(ln)
}

// AnswerHTTP reports that HTTP-01 challenges now reach Answer, through a
// listener of the program.
func (k *Keeper) AnswerHTTP() {
	k.ports.mu.Lock()
	k.ports.program = true
	k.ports.mu.Unlock()
	k.answer()
}

// answer tells the Manager whether HTTP-01 can be answered.
func (k *Keeper) answer() {
	k.ports.mu.Lock()
	defer k.ports.mu.Unlock()
	if m := k.manager.Load(); m != nil {
		m.engine.http.Store(k.ports.hears())
	}
}

// Answer answers q if it is an ACME challenge for host, which is the canonical
// form of q's host, and reports whether it did.
func (k *Keeper) Answer(w http.ResponseWriter, q *http.Request, host string) bool {
	m := k.manager.Load()
	return m != nil && m.HTTPChallenge(w, q, host)
}

// Belongs reports whether a connection may carry requests for a canonical host:
// a client certificate that was accepted for one host counts for no other.
// wants reports which patterns have a route, like Options.Wants. It must use
// the same routes that serve the request: otherwise old routes could admit a
// request that new ones serve.
//
// Hot path: one atomic load, no allocation; a read lock if the program sets TLS
// per host.
func (k *Keeper) Belongs(wants func(pattern string) bool, state *tls.ConnectionState, host string) bool {
	return k.choices.Load().admits(wants, state, host)
}

// Authority returns host as a client reaches it over HTTPS, for a plain request
// that came to port ("" for 80). It is for requests on a listener of the
// program; a Share has an Authority method of its own.
func (k *Keeper) Authority(q *http.Request, host, port string) string {
	return httpsAuthority(q, host, port, int(k.ports.https.Load()))
}

// Close closes the Manager even if there are Shares; their listeners then serve
// what is in memory. It also closes the forwarded connections of listeners
// without a Share. It waits until this is done, for closePatience or little
// more. The next use does not wait for it and opens another Manager.
func (k *Keeper) Close() error {
	k.mu.Lock()
	passer := k.passer
	k.passer = nil
	k.epoch++
	k.shares, k.held = 0, false
	shut := k.shut()
	k.mu.Unlock()
	if passer != nil {
		passer.Close()
	}
	return shut()
}

// shut takes the Manager out of use, if there is one. The returned function
// closes it and waits until it and the Managers before it have ended. k.mu is
// held, but must not be held when the returned function is called.
func (k *Keeper) shut() func() error {
	m, before := k.manager.Swap(nil), k.closing
	if m == nil {
		return func() error {
			if before != nil {
				<-before
			}
			return nil
		}
	}
	ended := make(chan struct{})
	k.closing = ended
	return func() error {
		defer close(ended)
		if before != nil {
			<-before
		}
		return m.Close()
	}
}
