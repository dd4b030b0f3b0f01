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

// ports are the known listeners: they tell where plain requests are redirected,
// and whether HTTP-01 challenges can be received.
type ports struct {
	https atomic.Int32 // redirect port for plain listeners without a Share; 0 if unknown

	mu      sync.Mutex
	shares  []*sharePorts // with an HTTPS listener, in the order of opening
	held    int           // of the latest HTTPS listener without a Share
	plain   int           // number of open plain listeners of Shares
	program bool          // the program has a plain listener of its own
}

// sharePorts are the listeners of one Share.
type sharePorts struct {
	https int  // 0 if unknown
	pair  bool // it has a plain listener too
	hears bool // its plain listener is open; guarded by ports.mu
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

// choose sets https. A listener that has a plain one beside it is the last
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

// hears reports whether HTTP-01 challenges can be received. p.mu is held.
func (p *ports) hears() bool { return p.program || p.plain > 0 }

func tcpPort(a net.Addr) int {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.Port
	}
	return 0
}

// httpsAuthority returns host as a client reaches it over HTTPS, for a plain
// request that came to port ("" for 80). If port is the one that we listen on,
// the client reaches our HTTPS port unchanged. Otherwise something translates
// ports, and HTTPS has its standard port.
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
