package certs

import (
	"cmp"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// ports are what is known of the listeners: where a plain request is redirected
// to, and whether HTTP-01 challenges can come.
type ports struct {
	https atomic.Int32 // for plain listeners that belong to no Share; 0 if not known

	mu      sync.Mutex
	shares  []*sharePorts // with a listener for HTTPS, in the order of opening
	held    int           // of the latest listener for HTTPS without a Share
	plain   int           // open plain listeners of Shares
	program bool          // the program has a plain listener of its own
}

// sharePorts are those of one Share.
type sharePorts struct {
	https int  // 0 if not known
	pair  bool // it has a plain listener too
	hears bool // which is open; guarded by ports.mu
}

// open adds the listeners of a Share.
func (p *ports) open(s *sharePorts, https, plain net.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.https = tcpPort(https)
	if plain != nil {
		s.pair, s.hears = true, true
		p.plain++
	}
	p.shares = append(p.shares, s)
	p.choose()
}

// hold adds a listener without a Share.
func (p *ports) hold(https net.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = cmp.Or(tcpPort(https), p.held)
	p.choose()
}

// deafen removes the plain listener of a Share.
func (p *ports) deafen(s *sharePorts) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.hears {
		s.hears = false
		p.plain--
	}
}

// close removes the listeners of a Share.
func (p *ports) close(s *sharePorts) {
	p.deafen(s)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shares = slices.DeleteFunc(p.shares, func(o *sharePorts) bool { return o == s })
	p.choose()
}

// choose sets https: a listener that has a plain one beside it is the last
// choice. p.mu is held.
func (p *ports) choose() {
	alone, paired := 0, 0
	for _, s := range p.shares {
		if s.pair {
			paired = cmp.Or(s.https, paired)
		} else {
			alone = cmp.Or(s.https, alone)
		}
	}
	p.https.Store(int32(cmp.Or(alone, p.held, paired)))
}

// hears reports whether HTTP-01 challenges can come. p.mu is held.
func (p *ports) hears() bool { return p.program || p.plain > 0 }

func tcpPort(a net.Addr) int {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.Port
	}
	return 0
}

// httpsAuthority returns host as the client of a plain request, which came to
// port, "" for 80, reaches it over HTTPS. A client that came to the very port
// that we listen on finds our HTTPS port as it is; for a client that came to
// another one something translates ports, and HTTPS is at its own.
func httpsAuthority(q *http.Request, host, port string, https int) string {
	if a, ok := q.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok &&
		https != 0 && https != 443 && cmp.Or(port, "80") == strconv.Itoa(a.Port) {
		return net.JoinHostPort(host, strconv.Itoa(https))
	}
	if strings.Contains(host, ":") {
		return "[" + host + "]"
	}
	return host
}
