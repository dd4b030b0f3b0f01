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

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/hostproxy/hostproxy/internal/hostname"
)

var (
	errClosed = errors.New("the certificate manager is closed")
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
	shapes  *shapes
	cache   *certmagic.Cache // always empty; a Config wants one
	port    heldPort
	http    atomic.Bool // HTTP-01 can be answered
	open    atomic.Bool // started

	public, internal *chain
	local            *LocalCA // signs what is kept in memory only; nil if the program replaced it
	solver           *solver
	chainMu          sync.Mutex
	single           map[identity]*chain // of one issuer
	accounts         map[accountID]*account
	choices          *choices // of the program at run time; nil if it has no say
	static           atomic.Pointer[static]
	files            []*pairFile // owned by the task that watches them
	loads, infos     *queue
	looks            *queue
	reloads          chan struct{} // a slot per certificate that is read for handshakes
	demands          *demands
	reporter         *reporter
	minted           *mint
	tickets          *tickets
	witnesses        []*witness // of the storages
	lobby            *lobby
	notices          *notices

	ctx    context.Context // ends all
	cancel context.CancelFunc
	ending sync.Mutex // no task starts after cancel
	tasks  sync.WaitGroup
	start  sync.Once
	close  sync.Once
	hello  sync.Once   // the local CA introduces itself
	misfit atomic.Bool // it could not, and has said so

	changes  changes
	syncMu   sync.Mutex // one sync at a time
	followMu sync.Mutex // one decision about a name at a time
	wants    []want     // of the names that are decided about; kept for the next ones; guarded by followMu

	mu        sync.RWMutex
	table     table
	below     zones
	memory    memory
	reloading int           // certificates that are being read for handshakes, or are about to be
	changed   chan struct{} // closed when any host has an outcome; nil if nothing waits for it
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
		looks:   newQueue(maxPreflights, nil),
		reloads: make(chan struct{}, maxReloads),
		changes: changes{wake: make(chan struct{}, 1)},
		lobby:   newLobby(o.Logger),
		table:   newTable(),
		single:  make(map[identity]*chain),
		below:   make(zones),
		memory:  memory{limit: maxLoaded},
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.choices = newChoices(m, o.Choose)
	m.demands = newDemands(m)
	m.notices = &notices{manager: m}
	m.tickets = &tickets{manager: m}
	m.reporter = newReporter(o.Logger, o.Observe)
	storage, err := orFiles(o.Storage)
	m.storage = newBoundedStorage(storage, cmp.Or(o.StorageTimeout, 10*time.Second))
	m.shapes = newShapes(m.storage)
	m.storage.storing = m.shapes.learn
	m.storage.watch(m.ctx, m.spawn, m.log)
	if err := errors.Join(err, m.checkTLS(), m.checkAddresses(), m.readFiles(), m.newPublic(), m.newInternal()); err != nil {
		m.cancel()
		return nil, err
	}
	m.minted = newMint(m.local)
	m.newWitnesses() // the first to know of a storage's return: nothing is tried before
	m.storage.onReturn(m.retryStalled)
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
		for _, w := range m.witnesses {
			m.spawn(w.watch)
		}
		m.spawn(m.watchCleanup)
		m.spawn(m.watchClock)
		m.spawn(func() { m.loads.loop(m.ctx) })
		m.spawn(func() { m.infos.loop(m.ctx) })
		m.spawn(func() { m.looks.loop(m.ctx) })
		for c := range m.chains() {
			m.begin(c)
		}
		if len(m.files) > 0 || m.choices != nil {
			m.spawn(m.watchFiles)
		}
		if m.options.ShareTickets {
			m.spawn(m.tickets.watch)
		}
		go m.reporter.loop(m.ctx) // its end is reporter.wait's to wait for: a hook may block it
		m.Changed()
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

// settle tells Await that a host has an outcome. m.mu is held.
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
