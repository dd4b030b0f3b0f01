package certs

import (
	"crypto/tls"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// openingTime is how long after TLSConfig the first CA is asked: the program's
// listener is to be open by then.
const openingTime = 2 * time.Second

// A Keeper is the certificates of one Router, from not used yet to closed and
// back. The zero value costs nothing. Its methods may be called concurrently.
type Keeper struct {
	manager atomic.Pointer[Manager]
	choices atomic.Pointer[choices]
	ports   ports

	mu      sync.Mutex // serialises opening and closing
	config  *tls.Config
	passer  *Passer // of listeners without a Share; nil until one asks for it
	epoch   int     // how often Close was called
	shares  int     // Shares not released that began or listened after the last Close
	running int     // Shares not released
	held    bool    // a listener without a Share may be open

	// closed when the Manager that was closed last has ended; nil if there was
	// none
	closing chan struct{}
}

// Manager returns the Manager, nil if the Keeper is not open.
func (k *Keeper) Manager() *Manager { return k.manager.Load() }

// Changed says that the routes of these host patterns have changed: Wants
// answers something else. Without hosts, any may have changed. It does not
// block, and costs what changed.
func (k *Keeper) Changed(hosts ...string) {
	if m := k.manager.Load(); m != nil {
		m.Changed(hosts...)
	}
}

// Listening opens the Keeper until Close for an open listener for HTTPS that
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

// Pass returns ln, a listener without a Share, with some hosts' connections
// carried elsewhere, by the Passer that open makes if there is none yet.
func (k *Keeper) Pass(ln net.Listener, open func() *Passer) net.Listener {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.passer == nil {
		k.passer = open()
	}
	return k.passer.Listener(ln)
}

// AnswerHTTP says that from now on HTTP-01 challenges reach Answer, by a
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

// Answer answers q if it is an ACME challenge for host, the canonical form of
// q's, and reports whether it has.
func (k *Keeper) Answer(w http.ResponseWriter, q *http.Request, host string) bool {
	m := k.manager.Load()
	return m != nil && m.HTTPChallenge(w, q, host)
}

// Belongs reports whether a connection may carry requests for a canonical host:
// what a client proved to one host counts for no other. wants says, as
// Options.Wants, what has a route: by the very routes that serve the request,
// or it could be admitted by old ones and served by new ones.
//
// Hot path: one atomic load, no allocation; a read lock if the program says per
// host how TLS is done.
func (k *Keeper) Belongs(wants func(pattern string) bool, state *tls.ConnectionState, host string) bool {
	return k.choices.Load().admits(wants, state, host)
}

// Authority returns host as the client of a plain request, which came to port,
// "" for 80, reaches it over HTTPS. The request came to a listener of the
// program; those of a Share have an Authority of their own.
func (k *Keeper) Authority(q *http.Request, host, port string) string {
	return httpsAuthority(q, host, port, int(k.ports.https.Load()))
}

// Close closes the Manager regardless of Shares, whose listeners then serve
// what is in memory, and cuts what listeners without a Share carry elsewhere.
// It waits for the end of that, for closePatience or little more. The next use,
// which does not wait for it, opens another Manager.
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

// shut takes the Manager out of use, if there is one. The result closes it and
// waits for its end, and for that of the ones before. k.mu is held, and must
// not be held during the call of the result.
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
