package certs

import (
	"cmp"
	"crypto/tls"
	"net"
	"net/http"
	"strconv"
	"strings"
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
	realms  atomic.Pointer[Realms]
	http    atomic.Bool  // HTTP-01 can be answered
	https   atomic.Int32 // port of the HTTPS listener; 0 if not known

	mu     sync.Mutex // serialises opening and closing
	config *tls.Config
	passer *Passer // nil until a listener asks for one
}

// Manager returns the Manager, nil if the Keeper is not open.
func (k *Keeper) Manager() *Manager { return k.manager.Load() }

// Changed says that the routes have changed. It is cheap.
func (k *Keeper) Changed() {
	if m := k.manager.Load(); m != nil {
		m.Changed()
	}
}

// Listening opens the Keeper for open listeners, with the addresses of the one
// for HTTPS and the one for challenges, which may be nil. options is called if it
// is not open yet.
func (k *Keeper) Listening(https, plain net.Addr, options func() Options) (*tls.Config, error) {
	if a, ok := https.(*net.TCPAddr); ok {
		k.https.Store(int32(a.Port))
	}
	if plain != nil {
		k.AnswerHTTP()
	}
	return k.open(0, options)
}

// TLSConfig opens the Keeper for a listener that is about to open.
func (k *Keeper) TLSConfig(options func() Options) (*tls.Config, error) {
	return k.open(openingTime, options)
}

func (k *Keeper) open(grace time.Duration, options func() Options) (*tls.Config, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	m := k.manager.Load()
	if m == nil {
		var err error
		if m, err = New(options()); err != nil {
			return nil, err
		}
		if k.http.Load() {
			m.AnswerHTTP()
		}
		k.config = m.TLSConfig()
		k.realms.Store(m.realms)
		k.manager.Store(m)
	}
	m.Start(grace)
	return k.config.Clone(), nil
}

// Pass returns ln with some hosts' connections carried elsewhere, by the Passer
// that open makes if there is none yet.
func (k *Keeper) Pass(ln net.Listener, open func() *Passer) net.Listener {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.passer == nil {
		k.passer = open()
	}
	return k.passer.Listener(ln)
}

// AnswerHTTP says that HTTP-01 challenges reach Answer.
func (k *Keeper) AnswerHTTP() {
	k.http.Store(true)
	if m := k.manager.Load(); m != nil {
		m.AnswerHTTP()
	}
}

// Answer answers q if it is an ACME challenge for host, the canonical form of
// q's, and reports whether it has.
func (k *Keeper) Answer(w http.ResponseWriter, q *http.Request, host string) bool {
	m := k.manager.Load()
	return m != nil && m.HTTPChallenge(w, q, host)
}

// Belongs reports whether a connection with that SNI, as the client sent it,
// may carry requests for a canonical host: what a client proved to one host
// counts for no other.
//
// Hot path: one atomic load, no locks, no allocation.
func (k *Keeper) Belongs(sni, host string) bool { return k.realms.Load().Same(sni, host) }

// Authority returns host as the client of a plain request, who came to port, ""
// for 80, reaches it over HTTPS. A client who came to the very port that we
// listen on finds our HTTPS port as it is; before a client who came to another
// somebody translates, and HTTPS is where it belongs.
func (k *Keeper) Authority(q *http.Request, host, port string) string {
	https := int(k.https.Load())
	if a, ok := q.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok &&
		https != 0 && https != 443 && cmp.Or(port, "80") == strconv.Itoa(a.Port) {
		return net.JoinHostPort(host, strconv.Itoa(https))
	}
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}

// Close closes the Manager, and cuts what is carried elsewhere. The next use
// opens another.
func (k *Keeper) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.passer != nil {
		k.passer.Close()
		k.passer = nil
	}
	m := k.manager.Swap(nil)
	if m == nil {
		return nil
	}
	return m.Close()
}
