package certs

import (
	"errors"
	"net"
	"sync"
)

// A heldPort is a loopback port that is in use and accepts connections.
//
// For each challenge, certmagic's solvers bind a port, 80 or 443 by default,
// unless something accepts connections there already. Here the listeners of the
// program answer challenges, wherever those listen: behind a port forward,
// inherited, or not on TCP at all. So the solvers are given this port. They
// find it in use, and bind no other.
type heldPort struct {
	once sync.Once
	ln   net.Listener
	err  error
	done chan struct{}
}

// open takes the port on first use and returns its host and number.
func (p *heldPort) open() (host string, port int, err error) {
	p.once.Do(p.listen)
	if p.err != nil {
		return "", 0, p.err
	}
	addr := p.ln.Addr().(*net.TCPAddr)
	return addr.IP.String(), addr.Port, nil
}

func (p *heldPort) listen() {
	var v4, v6 error
	if p.ln, v4 = net.Listen("tcp", "127.0.0.1:0"); v4 != nil {
		if p.ln, v6 = net.Listen("tcp", "[::1]:0"); v6 != nil {
			p.err = errors.Join(v4, v6)
			return
		}
	}
	p.done = make(chan struct{})
	go p.accept()
}

func (p *heldPort) accept() {
	defer close(p.done)
	for {
		c, err := p.ln.Accept()
		if err != nil {
			return
		}
		_ = c.Close()
	}
}

// close frees the port; it cannot be opened again.
func (p *heldPort) close() {
	p.once.Do(func() { p.err = net.ErrClosed })
	if p.ln != nil {
		_ = p.ln.Close()
		<-p.done
	}
}
