package certs

import (
	"crypto/tls"
	"net"
	"net/http"
	"sync"
)

// A Share is one server's use of a Keeper. The Keeper stays open until the last
// Share is released, or until Close. The methods may be called concurrently,
// except Pass and Release.
type Share struct {
	keeper  *Keeper
	epoch   int         // guarded by keeper.mu
	passers []*Passer   // of its listeners
	once    sync.Once   // for Release
	ports   *sharePorts // of its listeners
}

// Share registers a server. It opens nothing.
func (k *Keeper) Share() *Share {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.running++
	k.shares++
	return &Share{keeper: k, epoch: k.epoch, ports: new(sharePorts)}
}

// Listen opens the Keeper for open listeners: https is the address of the one
// for HTTPS, plain that of the one for challenges, which may be nil. options is
// called if the Keeper is not open yet.
func (s *Share) Listen(https, plain net.Addr, options func() Options) (*tls.Config, error) {
	k := s.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	if s.epoch != k.epoch { // closed meanwhile, and now opened again
		s.epoch = k.epoch
		k.shares++
	}
	k.ports.open(s.ports, https, plain)
	k.answer()
	return k.open(0, options)
}

// Deafen reports that the plain listener accepts no more connections, so it
// receives no HTTP-01 challenges.
func (s *Share) Deafen() {
	s.keeper.ports.deafen(s.ports)
	s.keeper.answer()
}

// Pass wraps ln so that connections of some hosts are forwarded, by the Passer
// that open makes. Release closes them.
func (s *Share) Pass(ln net.Listener, open func() *Passer) net.Listener {
	p := open() // one per listener: its server closes it at the end
	s.passers = append(s.passers, p)
	return p.Listener(ln)
}

// Authority is like Keeper.Authority, for requests to the plain listener of s:
// they are sent to the HTTPS listener beside it.
func (s *Share) Authority(q *http.Request, host, port string) string {
	return httpsAuthority(q, host, port, s.ports.https)
}

// Release ends the share. After the last one it closes the Keeper and calls
// last, unless a listener without a Share is open: that one lasts until Close.
// Later calls do nothing.
func (s *Share) Release(last func()) (err error) {
	s.once.Do(func() {
		for _, p := range s.passers {
			p.Close()
		}
		s.keeper.ports.close(s.ports)
		s.keeper.answer()
		var alone bool
		if alone, err = s.keeper.release(s.epoch); alone {
			last()
		}
	})
	return err
}

// release unregisters a server of an epoch, and reports whether k is no longer
// used.
func (k *Keeper) release(epoch int) (alone bool, err error) {
	k.mu.Lock()
	k.running--
	if epoch == k.epoch {
		k.shares--
	}
	var shut func() error
	if k.shares == 0 && !k.held {
		shut = k.shut()
	}
	alone = k.running == 0 && !k.held
	k.mu.Unlock()
	if shut != nil {
		err = shut()
	}
	return alone, err
}
