package certs

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	policyPatience = 10 * time.Second // of one decision
	refusedFor     = time.Minute      // that a refusal is remembered
)

var errManyDemands = errors.New("too many new hosts are asked for at a time")

// demands decides about names that come with a handshake: each once at a time,
// few at a time, and a refused one not again for a while.
type demands struct {
	manager *Manager

	mu      sync.Mutex
	open    map[string]*demand
	refused map[string]time.Time // until when
}

// A demand is a decision under way.
type demand struct {
	done chan struct{} // closed when host and err are set; neither is if the answer is no
	host *host
	err  error
}

func newDemands(m *Manager) *demands {
	return &demands{manager: m, open: make(map[string]*demand), refused: make(map[string]time.Time)}
}

// join finds or begins the decision about name: nil without an error if it is
// refused. began reports that it begins now.
func (d *demands) join(name string) (x *demand, began bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if until, ok := d.refused[name]; ok {
		if time.Now().Before(until) {
			return nil, false, nil
		}
		delete(d.refused, name)
	}
	if x := d.open[name]; x != nil {
		return x, false, nil
	}
	if len(d.open) >= maxOnDemand {
		return nil, false, errManyDemands
	}
	x = &demand{done: make(chan struct{})}
	if !d.manager.spawn(func() { d.decide(name, x) }) {
		return nil, false, errClosed
	}
	d.open[name] = x
	return x, true, nil
}

// decide asks the policy, on its own time: the handshake that asked first may
// leave before the others. An allowed name stays open until its first outcome,
// so that issuances on demand are bounded too.
func (d *demands) decide(name string, x *demand) {
	m := d.manager
	err := m.policy(m.ctx, name)
	var moved <-chan struct{}
	if err == nil {
		x.host, moved = m.addOnDemand(name)
	}
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		m.log.Debug("on-demand certificate refused", "host", name, "cause", err)
		d.refuse(name)
	} else if err != nil {
		x.err = err
	}
	close(x.done)
	if moved != nil {
		select {
		case <-moved:
		case <-m.ctx.Done():
		}
	}
	d.mu.Lock()
	delete(d.open, name)
	d.mu.Unlock()
}

// refuse remembers a refusal. When the memory is full, one that is over goes,
// or else any.
func (d *demands) refuse(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	d.refused[name] = now.Add(refusedFor)
	if len(d.refused) <= maxRefused {
		return
	}
	seen, victim := 0, ""
	for other, until := range d.refused {
		if other == name {
			continue
		}
		victim = other
		if seen++; now.After(until) || seen == 16 {
			break
		}
	}
	delete(d.refused, victim)
}

// policy asks the program whether name may have a certificate on demand.
func (m *Manager) policy(ctx context.Context, name string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, policyPatience)
	defer cancel()
	defer rescue("HostPolicy", &err)
	return m.options.Policy(ctx, name)
}

// addOnDemand adds a host that came with a handshake, and returns it with what
// is closed at its first outcome.
func (m *Manager) addOnDemand(name string) (*host, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if h := m.find(name); h != nil {
		return h, h.moved
	}
	h := m.newHost(name, m.chainOf(name))
	h.onDemand, h.awaited = true, true
	h.used.Store(true)
	h.status.OnDemand = true
	m.hosts[name] = h
	h.put(m.loads, h.load, time.Now())
	return h, h.moved
}

// A mint makes certificates for internal hosts that are no pattern of their
// own: under *.localhost, or under *, which stands for any. They are kept in
// memory only, a bounded number of them.
type mint struct {
	ca *LocalCA // nil mints nothing

	mu    sync.Mutex
	certs map[string]*tls.Certificate
}

func newMint(ca *LocalCA) *mint {
	return &mint{ca: ca, certs: make(map[string]*tls.Certificate)}
}

// held returns the certificate for host if there is one that is good for a
// while.
func (m *mint) held(host string) *tls.Certificate {
	m.mu.Lock()
	defer m.mu.Unlock()
	if cert := m.certs[host]; cert != nil && time.Until(cert.Leaf.NotAfter) > leafLifetime/3 {
		return cert
	}
	return nil
}

// get makes a certificate for host, or returns the one that was made meanwhile.
func (m *mint) get(ctx context.Context, host string) (*tls.Certificate, error) {
	if cert := m.held(host); cert != nil {
		return cert, nil
	}
	cert, err := m.ca.Mint(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("certificate for %q: %w", host, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for other := range m.certs {
		if len(m.certs) < maxMinted {
			break
		}
		delete(m.certs, other)
	}
	m.certs[host] = cert
	return cert, nil
}
