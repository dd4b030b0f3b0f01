package certs_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

// All calls of the Manager's API by the simulation are in this block.

// options returns the options of an instance.
func (i *instance) options() certs.Options {
	return certs.Options{
		Hosts: i.hosts, Wants: i.wants, Knows: i.knows, Storage: i.storage, Logger: slog.New(counter{i, ""}), Policy: i.world.policy,
		Public: []certmagic.Issuer{&modelIssuer{i.world.ca, i}},
	}
}

// changed reports that the routes of hosts have changed.
func (i *instance) changed(hosts ...string) { i.manager.Changed(hosts...) }

// notAllowed is the answer of a HostPolicy that means no; any other error means
// that it cannot tell.
func notAllowed() error { return certs.ErrNotAllowed }

// shake is the part of a handshake that gets a certificate.
func (i *instance) shake(name string) (*tls.Certificate, time.Duration, error) {
	begin := time.Now()
	cert, err := i.manager.GetCertificate(&tls.ClientHelloInfo{
		ServerName: name, SupportedProtos: []string{"h2", "http/1.1"}, SupportedVersions: []uint16{tls.VersionTLS13},
		SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
	})
	return cert, time.Since(begin), err
}

// A world is everything in a simulated year.
type world struct {
	t         testing.TB
	seed      uint64
	days      int
	hosts     int           // of the first day
	fair      time.Duration // time without trouble that makes a host healthy
	first     time.Duration // the same, if it came without a certificate
	start     time.Time
	ca        *modelCA
	storage   *modelStorage
	db        fault // the database that HostPolicy asks
	asking    atomic.Int64
	crowds    atomic.Int64
	localRoot []byte

	turn chan struct{} // token, held while instances start and end; a mutex would stop the clock
	dice sync.Mutex    // guards rand
	rand *rand.Rand

	mu        sync.Mutex
	tenants   map[string]*tenant
	all       []*tenant // in the order of their arrival
	instances []*instance
	born      int // number of instances so far
	starts    int // of instances, today
	troubles  []trouble
	history   []string // of the world
	warned    int      // today, without a host
	failures  map[string]int
	told      map[string]bool
	samples   atomic.Int64
}

// A tenant is a host of the world, or a wildcard, with or without a route.
type tenant struct {
	name     string // as a pattern
	ask      string // name that clients request
	life     time.Duration
	ari      bool      // the CA has renewal information for it
	demand   bool      // it has no route; handshakes request it
	excused  bool      // a limit of the CA may delay its first certificate
	wanted   time.Time // since when; zero if it is not wanted
	gone     time.Time // when it was removed
	broken   bool      // its validation fails
	pending  leaf      // signed by the CA
	stored   leaf      // in storage
	lost     leaf      // was in storage; an instance may still hold it
	storedBy string    // name of the instance; "" if none
	storedAt time.Time
	asked    time.Time // time of the last order
	revoked  time.Time // when its certificate was revoked; otherwise zero
	covered  *tenant   // a wildcard that was added later; nil if none
	troubles []trouble
	history  []string
	warned   int // today
}

// A trouble is a time in which something did not work; to is zero if it lasts.
type trouble struct {
	what     string
	from, to time.Time
	backlog  int // renewals that were due at its end
}

// A standing is what the CA must know about the host of an order.
type standing struct {
	host      string
	renewal   bool // it had a certificate for the same names before
	suggested bool // and the CA has suggested to renew it by now
	due       bool // less than a third of its life is left
	left      time.Duration
}

// An instance is a process with a Manager.
type instance struct {
	name    string
	world   *world
	manager *certs.Manager
	storage *modelClient
	begin   time.Time
	lag     time.Duration // delay until it learns of a route change
	closing atomic.Bool

	mu     sync.RWMutex
	routes map[string]bool
	served map[*tenant]time.Time // end of the certificate that was last served
}

func newWorld(t testing.TB, seed uint64, hosts int) *world {
	w := &world{
		t: t, seed: seed, days: *yearDays, hosts: hosts, fair: chanceFor, first: day(1) + 3*time.Hour*time.Duration(hosts)/300, start: time.Now(), rand: rand.New(rand.NewPCG(seed, 2)),
		tenants: make(map[string]*tenant), failures: make(map[string]int), told: make(map[string]bool), turn: make(chan struct{}, 1),
	}
	if yearRaced {
		w.days = min(w.days, racedDays)
	}
	w.ca = newModelCA(t, w)
	w.storage = newModelStorage(w)
	return w
}

// roll returns a number in [0,n).
func (w *world) roll(n int) int {
	w.dice.Lock()
	defer w.dice.Unlock()
	return w.rand.IntN(n)
}

// chance returns a number in [0,1).
func (w *world) chance() float64 {
	w.dice.Lock()
	defer w.dice.Unlock()
	return w.rand.Float64()
}

func (w *world) between(a, b time.Duration) time.Duration {
	return a + time.Duration(w.chance()*float64(b-a))
}

// stamp formats a time for failures.
func (w *world) stamp(t time.Time) string {
	return fmt.Sprintf("day %d %s", int(t.Sub(w.start).Hours())/24, t.UTC().Format("15:04:05"))
}

// launch starts an instance with the current routes.
func (w *world) launch() *instance {
	lag := w.between(0, time.Minute)
	w.mu.Lock()
	if len(w.instances) == 0 {
		lag = 0
	}
	w.born++
	w.starts++
	i := &instance{
		name: fmt.Sprintf("p%d", w.born), world: w, storage: &modelClient{storage: w.storage}, begin: time.Now(), lag: lag,
		routes: map[string]bool{"*": true}, served: make(map[*tenant]time.Time),
	}
	for _, s := range w.all {
		if !s.wanted.IsZero() && !s.demand {
			i.routes[s.name] = true
		}
	}
	w.mu.Unlock()
	m, err := certs.New(i.options())
	require.NoError(w.t, err)
	m.MaxLoaded(1 << 20)
	i.manager = m
	m.Start(0)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.instances = append(w.instances, i)
	w.say("%s starts", i.name)
	return i
}

// quit closes an instance; with kill it is killed first.
func (w *world) quit(i *instance, kill bool) {
	i.closing.Store(true)
	w.mu.Lock()
	w.instances = slices.DeleteFunc(w.instances, func(other *instance) bool { return other == i })
	w.say("%s ends, killed: %v", i.name, kill)
	w.mu.Unlock()
	if kill {
		i.storage.kill()
	}
	begin := time.Now()
	// locks of a killed process, or of a storage that is down, stay for
	// lockLease
	_ = i.manager.Close()
	i.storage.kill() // the process ends, if it was not killed before
	if took := time.Since(begin); took > time.Minute {
		w.fail("close", "", "%s needs %s to close", i.name, took)
	}
}

// running returns the running instances.
func (w *world) running() []*instance {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.instances)
}

// add makes a tenant that is wanted from now on.
func (w *world) add(s tenant) *tenant {
	w.mu.Lock()
	s.ask = strings.Replace(s.name, "*", "www", 1)
	w.tenants[s.name] = &s
	w.all = append(w.all, &s)
	w.mu.Unlock()
	w.want(&s)
	return &s
}

// want adds the route of a tenant, and unwant removes it. Instances learn of it
// one after another.
func (w *world) want(s *tenant) {
	w.mu.Lock()
	s.wanted = time.Now()
	s.say(w, "comes")
	w.mu.Unlock()
	w.reroute(s)
}

func (w *world) unwant(s *tenant) {
	w.mu.Lock()
	s.wanted, s.gone = time.Time{}, time.Now()
	s.say(w, "goes")
	for _, i := range w.instances {
		i.forget(s)
	}
	w.mu.Unlock()
	w.reroute(s)
}

func (w *world) reroute(s *tenant) {
	if s.demand {
		return
	}
	for _, i := range w.running() {
		if i.lag == 0 {
			i.route(s)
		} else {
			time.AfterFunc(i.lag, func() { i.route(s) })
		}
	}
}

// route adds or removes the route of a tenant in an instance.
func (i *instance) route(s *tenant) {
	i.world.mu.Lock()
	on := !s.wanted.IsZero()
	i.world.mu.Unlock()
	i.mu.Lock()
	if on {
		i.routes[s.name] = true
	} else {
		delete(i.routes, s.name)
	}
	i.mu.Unlock()
	i.changed(s.name)
}

func (i *instance) hosts() iter.Seq[string] {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return maps.Keys(maps.Clone(i.routes))
}

func (i *instance) wants(pattern string) bool {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return i.routes[pattern]
}

// knows is always true: there is a route "*".
func (i *instance) knows(string) bool { return true }

// policy is the HostPolicy of all instances.
func (w *world) policy(ctx context.Context, host string) error {
	kind, over := w.db.now()
	switch kind {
	case "errors":
		return errors.New("database: connection refused")
	case "hangs":
		select {
		case <-over:
		case <-ctx.Done():
		}
		return errors.New("database: no answer")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.tenants[host]; s != nil && s.demand && !s.wanted.IsZero() {
		return nil
	}
	return notAllowed()
}

// breaks makes the validation of a tenant fail, and mends repairs it.
func (w *world) breaks(s *tenant) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !s.broken {
		s.broken = true
		s.troubles = append(s.troubles, trouble{what: "dns", from: time.Now()})
		s.say(w, "validation breaks")
	}
}

func (w *world) mends(s *tenant) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s.broken {
		s.broken = false
		s.troubles[len(s.troubles)-1].to, s.troubles[len(s.troubles)-1].backlog = time.Now(), w.backlog()
		s.say(w, "validation works")
	}
}

// suffers lets f have a fault for a time.
func (w *world) suffers(f *fault, what, kind string, length time.Duration) {
	works := w.breaksDown(what, kind, length)
	f.begin(kind)
	w.pass(length)
	f.end()
	works()
}

// breaksDown notes that a part of the world stops working. Calling works notes
// that it works again.
func (w *world) breaksDown(what, kind string, length time.Duration) (works func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.troubles = append(w.troubles, trouble{what: what, from: time.Now()})
	n := len(w.troubles) - 1
	w.say("%s: %s for %s", what, kind, length.Round(time.Minute))
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.troubles[n].to, w.troubles[n].backlog = time.Now(), w.backlog()
		w.say("%s: works", what)
	}
}

// pass lets time pass.
func (w *world) pass(d time.Duration) { _ = pause(context.Background(), d) }

// validates reports whether the CA can validate a host.
func (w *world) validates(host string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.tenants[host]
	return s != nil && !s.broken
}

// profile returns which certificates the CA issues for a host.
func (w *world) profile(host string) (life time.Duration, ari bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.tenants[host]; s != nil {
		return s.life, s.ari
	}
	return day(90), false
}

func (w *world) standing(host string) standing {
	w.mu.Lock()
	defer w.mu.Unlock()
	st, s := standing{host: host}, w.tenants[host]
	if s == nil || s.stored.to.IsZero() {
		return st
	}
	st.renewal, st.left = true, time.Until(s.stored.to)
	st.due = time.Until(s.stored.to) < s.life*36/100 || !s.revoked.IsZero()
	st.suggested = s.ari && st.due
	return st
}

// issued, stored and deleted report the result of an order to the world.
func (w *world) issued(l leaf) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.tenants[l.host]; s != nil {
		s.pending = l
		s.say(w, "the CA signs until %s", w.stamp(l.to))
	}
}

func (w *world) stored(c *modelClient, issuer, host string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.tenants[host]
	if s == nil {
		return
	}
	if issuer != "model" {
		s.pending = leaf{host, time.Now(), time.Now().Add(s.life)}
	}
	if s.pending == (leaf{}) {
		s.pending = s.lost // written back
	}
	if s.stored == s.pending {
		return // only renewal information was written
	}
	w.good(s)
	s.stored, s.storedAt, s.storedBy = s.pending, time.Now(), ""
	if s.revoked.Before(s.stored.from) {
		s.revoked = time.Time{}
	}
	for _, i := range w.instances {
		if i.storage == c {
			s.storedBy = i.name
		}
	}
}

func (w *world) deleted(host string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.tenants[host]; s != nil {
		s.lose()
		s.say(w, "deleted from storage")
	}
}

// lose notes that the certificate is gone: the tenant is like a new one. The
// world's lock is held.
func (s *tenant) lose() {
	s.lost, s.stored, s.pending = s.stored, leaf{}, leaf{}
	if !s.wanted.IsZero() {
		s.wanted = time.Now()
	}
}

// say adds to the history of the world, or of a tenant. w.mu is held.
func (w *world) say(format string, args ...any) {
	w.history = append(w.history, w.stamp(time.Now())+" "+fmt.Sprintf(format, args...))
	w.history = w.history[max(0, len(w.history)-12):]
}

func (s *tenant) say(w *world, format string, args ...any) {
	s.history = append(s.history, w.stamp(time.Now())+" "+fmt.Sprintf(format, args...))
	s.history = s.history[max(0, len(s.history)-12):]
}

// note adds to the history of a host.
func (w *world) note(host, format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.tenants[host]; s != nil {
		s.say(w, format, args...)
	}
}

// fail notes that a rule is broken, once per host and day, and prints the first
// few failures of each rule.
func (w *world) fail(rule, host, format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.broken(rule, host, format, args...)
}

// broken is fail with w.mu held.
func (w *world) broken(rule, host, format string, args ...any) {
	now := time.Now()
	key := fmt.Sprint(rule, host, int(now.Sub(w.start).Hours())/24)
	if w.told[key] {
		return
	}
	w.told[key] = true
	if w.failures[rule]++; w.failures[rule] > *yearPrint {
		return
	}
	text := fmt.Sprintf("seed %d, %s, host %q: rule %q: %s", w.seed, w.stamp(now), host, rule, fmt.Sprintf(format, args...))
	for _, line := range w.history {
		text += "\n\tworld: " + line
	}
	if s := w.tenants[host]; s != nil {
		for _, line := range s.history {
			text += "\n\thost:  " + line
		}
	}
	for _, i := range w.instances {
		status, ok := i.manager.Status(host)
		text += fmt.Sprintf("\n\t%s has it: %t %+v", i.name, ok, status)
	}
	w.t.Error(text)
}

// A counter is the slog.Handler of an instance: it counts warnings.
type counter struct {
	instance *instance
	host     string
}

// Enabled implements slog.Handler.
func (c counter) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }

// Handle implements slog.Handler.
func (c counter) Handle(_ context.Context, r slog.Record) error {
	host, text := c.host, r.Message
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "host" {
			host = a.Value.String()
		}
		if a.Key == "cause" {
			text += ": " + a.Value.String()
		}
		return true
	})
	c.instance.world.warn(c.instance, host, text)
	return nil
}

// WithAttrs implements slog.Handler.
func (c counter) WithAttrs(attrs []slog.Attr) slog.Handler {
	for _, a := range attrs {
		if a.Key == "host" {
			c.host = a.Value.String()
		}
	}
	return c
}

// WithGroup implements slog.Handler.
func (c counter) WithGroup(string) slog.Handler { return c }
