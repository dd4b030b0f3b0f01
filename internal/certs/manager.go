package certs

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

var (
	errClosed = errors.New("the certificates are closed")
	errUnused = errors.New("certmagic's cache is not used")
)

// syncPause is the least time between two scans of the routes, so that ten
// thousand changes in a row cost a few scans.
const syncPause = 50 * time.Millisecond

// A Manager keeps the certificates of the hosts of one Router. Its methods may
// be called concurrently.
type Manager struct {
	options Options
	log     *slog.Logger
	zap     *zap.Logger
	storage *boundedStorage
	cache   *certmagic.Cache // always empty; a Config wants one
	port    heldPort
	http    atomic.Bool // HTTP-01 can be answered
	open    atomic.Bool // started

	public, internal *chain
	local            *LocalCA // signs what is kept in memory only; nil if the program replaced it
	solver           *solver
	special          map[string]*chain // by host or wildcard
	static           atomic.Pointer[static]
	files            []*pairFile // owned by the task that watches them
	loads, infos     *queue
	demands          *demands
	minted           *mint
	realms           *Realms
	tickets          *tickets
	waiters          chan struct{} // a slot per waiting handshake

	ctx    context.Context // ends all
	cancel context.CancelFunc
	ending sync.Mutex // no task starts after cancel
	tasks  sync.WaitGroup
	start  sync.Once
	close  sync.Once
	hello  sync.Once // the local CA introduces itself
	dirty  atomic.Bool
	change chan struct{}
	syncMu sync.Mutex // one scan at a time

	mu      sync.RWMutex
	hosts   map[string]*host
	memory  memory
	changed chan struct{} // closed when any host's outcome changes
}

// New checks o and returns a Manager that does nothing until Start. The error
// says all that is wrong.
func New(o Options) (*Manager, error) {
	m := &Manager{
		options: o,
		log:     o.Logger,
		zap:     newZap(o.Logger),
		loads:   newQueue(maxLoads, nil),
		infos:   newQueue(2, nil),
		waiters: make(chan struct{}, maxWaiters),
		change:  make(chan struct{}, 1),
		changed: make(chan struct{}),
		hosts:   make(map[string]*host),
		memory:  memory{limit: maxLoaded},
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.demands = newDemands(m)
	m.tickets = &tickets{manager: m}
	storage, err := orFiles(o.Storage)
	m.storage = newBoundedStorage(storage, cmp.Or(o.StorageTimeout, 10*time.Second))
	if err := errors.Join(err, m.checkTLS(), m.readFiles(), m.newPublic(), m.newInternal(), m.newSpecial()); err != nil {
		m.cancel()
		return nil, err
	}
	m.minted = newMint(m.local)
	return m, nil
}

// Start begins the work, after grace: listeners of the program may need a
// moment to open, and challenges come to them. A handshake ends the grace for
// its host. Later calls do nothing.
func (m *Manager) Start(grace time.Duration) {
	m.start.Do(func() {
		m.cache = certmagic.NewCache(certmagic.CacheOptions{
			GetConfigForCert:   func(certmagic.Certificate) (*certmagic.Config, error) { return nil, errUnused },
			RenewCheckInterval: time.Minute, // also how much earlier than asked certmagic renews
			OCSPCheckInterval:  24 * time.Hour,
			Logger:             m.zap,
		})
		m.solver = newSolver(m)
		m.spawn(func() { m.loads.loop(m.ctx) })
		m.spawn(func() { m.infos.loop(m.ctx) })
		for c := range m.chains() {
			m.spawn(func() { c.queue.loop(m.ctx) })
		}
		if len(m.files) > 0 {
			m.spawn(m.watchFiles)
		}
		if m.options.ShareTickets {
			m.spawn(m.tickets.watch)
		}
		m.dirty.Store(true)
		m.spawn(func() { m.watch(grace) })
		m.open.Store(true)
	})
}

// spawn runs a task that Close waits for, unless Close has begun.
func (m *Manager) spawn(task func()) bool {
	m.ending.Lock()
	defer m.ending.Unlock()
	if m.ctx.Err() != nil {
		return false
	}
	m.tasks.Go(task)
	return true
}

// AnswerHTTP says that HTTP-01 challenges reach HTTPChallenge.
func (m *Manager) AnswerHTTP() { m.http.Store(true) }

// Changed says that the routes of these host patterns have changed; without
// hosts, any may have changed. It is cheap and does not block.
func (m *Manager) Changed(...string) {
	m.dirty.Store(true)
	select {
	case m.change <- struct{}{}:
	default:
	}
}

// Close ends all work and waits for it, and frees the locks it held. Later
// calls do nothing.
func (m *Manager) Close() error {
	var err error
	m.close.Do(func() {
		m.ending.Lock()
		m.cancel()
		m.ending.Unlock()
		m.start.Do(func() {}) // never, if not yet
		m.tasks.Wait()
		m.port.close()
		for c := range m.chains() {
			for _, a := range c.authorities {
				a.closeIdle()
			}
		}
		if m.cache != nil {
			m.cache.Stop()
		}
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		err = m.storage.unlockAll(ctx)
		m.storage.settle(ctx)
	})
	return err
}

// watch follows the routes.
func (m *Manager) watch(grace time.Duration) {
	timer := time.NewTimer(grace)
	defer timer.Stop()
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-timer.C:
		}
		m.sync()
		select {
		case <-m.ctx.Done():
			return
		case <-m.change:
		}
		timer.Reset(syncPause)
	}
}

// sync makes the table follow the routes, if those have changed. When it returns
// the table does, whoever has done it.
func (m *Manager) sync() {
	m.syncMu.Lock()
	defer m.syncMu.Unlock()
	if !m.dirty.Swap(false) {
		return
	}
	wanted := m.wanted()
	var hopeless []Status
	m.mu.Lock()
	for name, h := range m.hosts {
		if _, ok := wanted[name]; ok && !h.onDemand || h.onDemand && m.options.Knows(name) {
			continue
		}
		m.remove(h)
	}
	for name, w := range wanted {
		if m.hosts[name] == nil && !w.covered {
			if h := m.add(name, w.refusal); w.refusal != nil {
				hopeless = append(hopeless, h.status)
			}
		}
	}
	m.mu.Unlock()
	for name := range wanted {
		if m.local != nil && m.chainOf(name) == m.internal {
			m.introduce()
			break
		}
	}
	for _, s := range hopeless {
		m.log.Error("no certificate possible", "host", s.Host, "cause", s.Err)
		m.observe(s)
	}
}

// introduce tells the operator, once, where the root of the local CA is.
func (m *Manager) introduce() {
	m.hello.Do(func() {
		m.spawn(func() {
			path, err := m.local.RootFile(m.ctx)
			if err != nil {
				m.log.Info("a local CA signs internal hosts", "cause", err)
				return
			}
			m.log.Info("a local CA signs internal hosts, its root is for curl --cacert and trust stores", "root", path)
		})
	})
}

// A want is what a host of a route asks for.
type want struct {
	refusal error // why it cannot have a certificate; nil if it can
	covered bool  // a wildcard's certificate serves it
}

// wanted returns what the hosts of the routes ask for.
func (m *Manager) wanted() map[string]want {
	wanted := make(map[string]want)
	for name := range m.options.Hosts() {
		zone, wild := strings.CutPrefix(name, "*.")
		switch {
		case name == "*", m.static.Load().has(name):
		case !wild:
			wanted[name] = want{refusal: m.refusal(name)}
		case m.mintable(zone) && m.chainOf(name) == m.internal && !strings.Contains(zone, "."):
			// No client takes *.localhost: its hosts get certificates of their own as they are asked for.
		case m.chainOf(name).wildcards():
			wanted[name] = want{refusal: m.refusal(name)}
		case m.options.Policy == nil:
			wanted[name] = want{refusal: errors.New("a wildcard needs a proof by DNS: set a DNS provider, " +
				"or a HostPolicy that allows a certificate for each of its hosts when it is asked for")}
		}
	}
	for name := range wanted {
		if i := strings.IndexByte(name, '.'); i > 0 && name[0] != '*' && !isIP(name) {
			if w, ok := wanted["*"+name[i:]]; ok && w.refusal == nil && m.special[name] == nil {
				// A host that has a certificate of its own keeps it: the wildcard's may be far away.
				wanted[name] = want{covered: true}
			}
		}
	}
	return wanted
}

// add starts a host, or notes why only a change of the program helps it. m.mu
// is held.
func (m *Manager) add(name string, refusal error) *host {
	h := m.newHost(name, m.chainOf(name))
	m.hosts[name] = h
	if refusal != nil {
		h.status.State, h.status.Err = Failed, refusal
		m.move(h)
		return h
	}
	h.put(m.loads, h.load, time.Now())
	return h
}

// remove ends a host. What is under way for it is cancelled, and finds itself
// gone. m.mu is held.
func (m *Manager) remove(h *host) {
	h.gone = true
	delete(m.hosts, h.name)
	m.memory.drop(h)
	if h.queue != nil {
		h.queue.drop(&h.job)
	}
	if h.cancel != nil {
		h.cancel()
	}
	m.move(h)
}

// forget removes a host that came on demand.
func (m *Manager) forget(h *host) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !h.gone {
		m.remove(h)
	}
}

// find returns the host whose certificate serves a name, or nil. m.mu is held
// for reading.
func (m *Manager) find(name string) *host {
	if h := m.hosts[name]; h != nil {
		return h
	}
	i := strings.IndexByte(name, '.')
	if i <= 0 {
		return nil
	}
	var buf [256]byte
	wild := append(append(buf[:0], '*'), name[i:]...)
	return m.hosts[string(wild)] // no allocation: the conversion is a map index
}

// move tells those who wait for h. m.mu is held.
func (m *Manager) move(h *host) {
	close(h.moved)
	h.moved = make(chan struct{})
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *Manager) observe(s Status) {
	if m.options.Observe != nil {
		m.options.Observe(s)
	}
}

func isIP(name string) bool {
	_, err := netip.ParseAddr(name)
	return err == nil
}
