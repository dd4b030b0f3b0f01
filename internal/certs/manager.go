package certs

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hostproxy/hostproxy/internal/hostname"
)

var errClosed = errors.New("the certificate manager is closed")

// A Manager keeps the certificates of the hosts of one Router. Its methods may
// be called concurrently.
type Manager struct {
	options Options
	log     *slog.Logger
	storage *boundedStorage
	shapes  *shapes
	engine  *engine
	open    atomic.Bool // started

	choices  *choices // the program's settings per host; nil without a hook
	static   *statics
	routing  *routing
	follower *follower
	recaller *recaller
	demands  *demands

	issuers      *issuers
	local        *localSigner // nil if the program replaced it
	solver       *solver
	scout        *scout
	loads, infos *queue
	reloads      chan struct{} // a slot per certificate read for handshakes
	witnesses    []*witness    // of the storages

	tickets  *tickets
	lobby    *lobby
	reporter *reporter
	notices  *notices

	ctx      context.Context // its cancellation ends all work
	cancel   context.CancelFunc
	ending   sync.Mutex // no task starts after cancel
	tasks    sync.WaitGroup
	start    sync.Once
	close    sync.Once
	recalled sync.Once // recall has begun

	mu        sync.RWMutex
	table     table
	below     zones
	memory    memory
	reloading int           // certificates being read for handshakes, or about to be
	changed   chan struct{} // closed when any host has an outcome; nil if nothing waits
}

// New checks o and returns a Manager that does nothing until Start. It returns
// all errors joined.
func New(o Options) (*Manager, error) {
	m := &Manager{
		options: o,
		log:     o.Logger,
		loads:   newQueue(maxLoads, nil),
		infos:   newQueue(2, nil),
		reloads: make(chan struct{}, maxReloads),
		table:   newTable(),
		below:   make(zones),
		memory:  memory{limit: maxLoaded},
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.lobby = newLobby(m.ctx, m.log)
	m.choices = newChoices(m, o.Choose)
	m.demands = newDemands(m)
	m.notices = &notices{manager: m}
	m.tickets = &tickets{manager: m}
	m.reporter = newReporter(o.Logger, o.Observe)
	storage, badStorage := orFiles(o.Storage)
	m.storage = newBoundedStorage(storage, cmp.Or(o.StorageTimeout, 10*time.Second))
	m.shapes = newShapes(m.storage)
	m.recaller = &recaller{storage: m.storage, choices: m.choices, knows: o.Knows, wants: o.Wants, add: m.addRecalled, spawn: m.spawn, log: m.log}
	m.engine = &engine{storage: m.storage, shapes: m.shapes, log: m.log, zap: newZap(m.log), noARI: o.DisableARI, answers: m.retryUnanswered, silences: silences{log: m.log, of: make(map[string]*silence)}}
	m.storage.storing = m.shapes.learn
	m.storage.watch(m.ctx, m.spawn, m.log)
	var badAddresses, badFiles, badLocal, badIssuers error
	m.scout, badAddresses = newScout(&m.options)
	m.static, badFiles = newStatics(&m.options)
	m.local, badLocal = newLocalSigner(m)
	m.issuers, badIssuers = newIssuers(m.engine, &m.options, m.local)
	if err := errors.Join(badStorage, m.checkTLS(), badAddresses, badFiles, badIssuers, badLocal); err != nil {
		m.cancel()
		return nil, err
	}
	m.routing = &routing{options: &m.options, choices: m.choices, static: m.static, issuers: m.issuers, local: m.local}
	m.follower = newFollower(m)
	// The witnesses learn first that a storage has returned: nothing is retried
	// before them.
	back := &restorer{storage: m.storage, local: m.local, shapes: m.shapes, tickets: m.tickets, holdings: m.holdings, log: m.log}
	m.witnesses = newWitnesses(m.ctx, back)
	m.storage.onReturn(m.retryStalled)
	return m, nil
}

// Start begins the work after grace: listeners of the program may need a moment
// to open, and they receive the challenges. A handshake ends the grace for its
// host. Later calls do nothing.
func (m *Manager) Start(grace time.Duration) {
	m.start.Do(func() {
		m.engine.start()
		m.solver = newSolver(m)
		for _, w := range m.witnesses {
			m.spawn(w.watch)
		}
		cleaner := &janitor{storage: m.storage, chains: m.issuers.chains, has: m.has, log: m.log}
		m.spawn(func() { cleaner.watch(m.ctx) })
		m.spawn(m.watchClock)
		m.spawn(func() { m.loads.loop(m.ctx) })
		m.spawn(func() { m.infos.loop(m.ctx) })
		m.spawn(func() { m.scout.queue.loop(m.ctx) })
		for c := range m.issuers.chains() {
			m.begin(c)
		}
		if len(m.static.files) > 0 || m.choices != nil {
			m.spawn(m.watchFiles)
		}
		if m.options.ShareTickets {
			m.spawn(m.tickets.watch)
		}
		go m.reporter.loop(m.ctx) // reporter.wait waits for it, not Close: a hook may block it
		m.Changed()
		m.spawn(func() { m.follower.watch(grace, m.followed) })
		m.open.Store(true)
	})
}

// followed is called each time the table has caught up with the routes.
func (m *Manager) followed() {
	m.notices.later()
	if m.options.Policy != nil {
		m.recalled.Do(func() { m.recaller.recall(m.ctx, m.issuers.chains()) })
	}
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

// AnswerHTTP reports that HTTP-01 challenges reach HTTPChallenge.
func (m *Manager) AnswerHTTP() { m.engine.http.Store(true) }

// find returns the host whose certificate serves a name, or nil. m.mu is held
// for reading.
func (m *Manager) find(name string) *host {
	if h := m.table.get(name); h != nil {
		return h
	}
	i := strings.IndexByte(name, '.')
	if i <= 0 {
		return nil
	}
	var buf [256]byte
	wild := append(append(buf[:0], '*'), name[i:]...)
	return m.table.getBytes(wild)
}

// settle notifies Await that a host has an outcome. m.mu is held.
func (m *Manager) settle() {
	if m.changed != nil {
		close(m.changed)
		m.changed = nil
	}
}

func isIP(name string) bool {
	_, ok := hostname.Addr(name)
	return ok
}
