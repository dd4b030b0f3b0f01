package service

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// Sockets are the sockets that a process has inherited, and those opened in
// place of missing ones. The zero value has none. Its methods may be called
// concurrently.
type Sockets struct {
	absent string // why no sockets were inherited; "" if none were announced
	gate   *gate  // nil if Accept need not wait

	mu        sync.Mutex
	inherited []*inherited
}

// Listener returns the first socket called name that was not returned before.
func (s *Sockets) Listener(name string) (*Listener, error) {
	ln, err := s.take(name)
	if ln == nil && err == nil {
		err = fmt.Errorf("no socket %q was inherited: %s", name, s.others())
	}
	return ln, err
}

// Listen is like Listener, but calls open if there is no such socket.
func (s *Sockets) Listen(name string, open func() (net.Listener, error)) (*Listener, error) {
	if name == "" || strings.Contains(name, ":") {
		return nil, fmt.Errorf("socket name %q: want one or more characters other than a colon", name)
	}
	if ln, err := s.take(name); ln != nil || err != nil {
		return ln, err
	}
	ln, err := open()
	if err != nil {
		return nil, s.hint(name, err)
	}
	return s.wrap(ln, name, true), nil
}

// hint adds the unused inherited sockets to err, the error of opening a socket:
// one of them may have the address under another name.
func (s *Sockets) hint(name string, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := s.left()
	if len(names) == 0 {
		return err
	}
	return fmt.Errorf("%w; no socket %q was inherited, but %s", err, name, strings.Join(names, " and "))
}

// take is like Listener, but returns nil if there is no such socket.
func (s *Sockets) take(name string) (*Listener, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.inherited {
		if k.name != name || k.taken {
			continue
		}
		ln, err := k.listener()
		if err != nil {
			return nil, err
		}
		k.taken = true
		l := s.wrap(ln, name, false)
		l.number = k.fd - firstFD
		return l, nil
	}
	return nil, nil
}

// wrap makes a Listener of s from ln.
func (s *Sockets) wrap(ln net.Listener, name string, owns bool) *Listener {
	l := &Listener{Listener: ln, name: name, gate: s.gate, number: -1, closed: make(chan struct{})}
	l.owns.Store(owns)
	if s.gate != nil {
		s.gate.add(l)
	}
	return l
}

// others describes the other sockets, for an error about a missing one.
func (s *Sockets) others() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch names := s.left(); {
	case s.absent != "":
		return s.absent
	case len(s.inherited) == 0:
		return envCount + " is not set"
	case len(names) == 0:
		return "all sockets are in use"
	default:
		return "want " + strings.Join(names, " or ")
	}
}

// left returns the quoted names of the sockets that were not returned. s.mu is
// held.
func (s *Sockets) left() (names []string) {
	for _, k := range s.inherited {
		if !k.taken {
			names = append(names, fmt.Sprintf("%q", k.name))
		}
	}
	return names
}

// Close closes the sockets that were not returned. If there are any, it returns
// an error that names them.
func (s *Sockets) Close() error {
	s.mu.Lock()
	names := s.left()
	for _, k := range s.inherited {
		if !k.taken {
			k.taken = true
			_ = os.NewFile(uintptr(k.fd), k.name).Close()
		}
	}
	s.mu.Unlock()
	if s.gate != nil {
		s.gate.look()
	}
	if len(names) == 0 {
		return nil
	}
	return fmt.Errorf("inherited sockets that the program does not use: %s: use them by Server.Sockets or Sockets.Listen, or remove them from the socket unit", strings.Join(names, ", "))
}

// rest returns the number of sockets that were not returned.
func (s *Sockets) rest() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.left())
}

// A Listener is a socket of Sockets.
type Listener struct {
	net.Listener
	name   string
	number int         // index among the inherited sockets; negative if not inherited
	gate   *gate       // nil if Accept need not wait
	owns   atomic.Bool // for a unix socket: Close removes its file

	arrived atomic.Bool // Accept was called
	once    sync.Once
	closed  chan struct{}
}

// Inherited reports whether the socket was inherited, not opened.
func (l *Listener) Inherited() bool { return l.number >= 0 }

// Accept implements net.Listener. In a process that takes over from another, it
// waits until that process allows it.
func (l *Listener) Accept() (net.Conn, error) {
	if l.gate != nil {
		if err := l.gate.pass(l); err != nil {
			return nil, err
		}
	}
	return l.Listener.Accept()
}

// Close implements net.Listener. Other processes with the socket keep it open.
func (l *Listener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		if u, ok := l.Listener.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(l.owns.Load())
		}
		if l.gate != nil {
			l.gate.look()
		}
	})
	return l.Listener.Close()
}

// SyscallConn implements syscall.Conn.
func (l *Listener) SyscallConn() (syscall.RawConn, error) {
	if c, ok := l.Listener.(syscall.Conn); ok {
		return c.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// gone reports whether l is closed.
func (l *Listener) gone() bool {
	select {
	case <-l.closed:
		return true
	default:
		return false
	}
}
