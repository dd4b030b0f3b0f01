package certs_test

import (
	"flag"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// How much is simulated. Read-only.
var (
	yearHosts   = flag.Int("year.hosts", 25, "hosts of TestAYearInAMinute")
	yearDays    = flag.Int("year.days", 126, "its days, in whole weeks: a week for each theme, to begin with")
	yearSeed    = flag.Uint64("year.seed", 1, "its first seed")
	yearSeeds   = flag.Uint64("year.seeds", 1, "number of its seeds")
	yearRestart = flag.Duration("year.restart", 7*24*time.Hour, "time between two restarts of all instances")
	yearLaunch  = flag.Bool("year.launch", false, "run TestALaunchOfThousandsOfHosts, which takes nine seconds of two processors")
	yearPrint   = flag.Int("year.print", 2, "failures printed in full for each rule")
)

// The limits of the rules.
const (
	askAgain    = 5 * 24 * time.Hour // between two requests for renewal information
	prompt      = 10 * time.Millisecond
	promptStale = 300 * time.Millisecond // for a host whose certificate has expired
	patience    = 30*time.Second + 100*time.Millisecond
	maxWaiting  = 64 // handshakes for one host
	tries       = 10 // of a client that is refused because too many wait
	warmUp      = time.Minute
	chanceFor   = 8 * time.Hour
	heldFor     = 2 * time.Hour
	notice      = time.Second // from a refusal until the whole client knows it
	turnedFor   = 29 * time.Minute
	warnings    = 8     // per host and day; two more for each start of an instance
	chatter     = 1_500 // warnings without a host, per day and instance: one a minute
	workers     = 150   // goroutines of an instance
	refusals    = 20    // by a storage that is down, per initial host and minute
	racedDays   = 21    // under the race detector
)

// A year of a few hundred hosts, with everything that goes wrong in one: see
// themes. By default it is a short one, in which each theme comes once; whole
// years are a step of .ci/run:
//
//	go test ./internal/certs -run TestAYearInAMinute -year.days 364 -year.hosts 500
//
// The rules, by the name that a failure shows:
//
//   - expired: no certificate of a healthy host expires, and no healthy host
//     stays without one. A host is healthy if its validation, the CA, the
//     storage and the database of HostPolicy worked for 8 hours in one piece
//     (but at most a sixth of the certificate's life): since its certificate
//     had a third of its life left; or, if it came without one, for a day plus
//     the time that the account's limit takes. Renewals that are due after an
//     outage may take that limit's time too: the account has 300 orders in
//     three hours, whatever a client does.
//   - handshake: a certificate that an instance has served, or found in storage
//     a minute after both were up, is served within 10 ms until it expires or
//     its host is removed. An expired one is served within 300 ms, rather than
//     none.
//   - wait: any other handshake ends within 30 s, and at most 64 wait for one
//     host.
//   - limit: after a refusal by a limit, no other order that this limit refuses
//     is sent before the time that the CA reported, the limit's own window,
//     after which it is fully available again, or 6 hours, whichever is first;
//     due renewals may be sent. Then one order tests whether the limit is over.
//     A limit holds no order to which it does not apply. Failed validations
//     never reach their limit. An order that was refused for a host is not
//     repeated within 29 minutes, unless the limit ends earlier.
//   - held: whatever the limits are, a due renewal is ordered within 2 hours in
//     which everything worked.
//   - needless: nothing is ordered while the host's certificate in storage is
//     good or, after storage was lost, the one in an instance.
//   - removed: nothing is ordered for a removed host.
//   - revoked: a certificate that the CA wants replaced is replaced in a week.
//   - root: the local CA keeps its root.
//   - storage: while it is down, it gets few requests.
//   - log: there are few warnings per host and day.
//   - goroutines: there are few.
//   - close: Close ends within a minute.
//
// The seed determines the world, but the Manager's behaviour in it also depends
// on chance. Too much for every day:
//
//	go test ./internal/certs -run TestAYearInAMinute -timeout 2h -year.days 364 -year.hosts 10000 -year.restart 24h
//
// On 2026-11-29 it broke no rule with seed 1: 169,105 orders, 153,793
// certificates, 4,873 orders refused by a limit, 629 instances and 40,462,652
// sampled handshakes, in 21 minutes of CPU and 2.0 GB.
//
// With -v it reports its progress. If a test hangs, a goroutine waits for a
// mutex whose holder sleeps: that stops the clock of testing/synctest.
func TestAYearInAMinute(t *testing.T) {
	eachSeed(t, func(t *testing.T, seed uint64) { newWorld(t, seed, *yearHosts).live() })
}

// eachSeed runs a simulation for each seed.
func eachSeed(t *testing.T, run func(t *testing.T, seed uint64)) {
	t.Helper()
	require.Zero(t, *yearDays%7, "-year.days: want whole weeks")
	for seed := *yearSeed; seed < *yearSeed+*yearSeeds; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { run(t, seed) })
		})
	}
}

// live lets the year pass, a week for each theme.
func (w *world) live() {
	w.populate()
	w.run(func(done chan struct{}) {
		go w.churn(done)
		go w.restarts(done, *yearRestart)
		themes := w.themes()
		for week := range (w.days + 6) / 7 {
			end := w.start.Add(time.Duration(min(7*(week+1), w.days)) * 24 * time.Hour)
			if week%2 == 1 {
				w.launch()
			}
			w.pass(w.between(day(1), day(1.5)))
			w.happens(themes[week%len(themes)], end)
			w.pass(time.Until(end))
			w.turn <- struct{}{}
			for _, i := range w.running()[1:] {
				w.quit(i, false)
			}
			<-w.turn
		}
	})
}

// run starts an instance, watches it while happens runs, and reports.
func (w *world) run(happens func(done chan struct{})) {
	// the heap is small, but there is much garbage
	defer debug.SetGCPercent(debug.SetGCPercent(800))
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(2 << 30)) // unless there are 10,000 hosts
	// goroutines without parallel work need not wake other threads
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	goroutines := runtime.NumGoroutine()
	w.launch()
	done := make(chan struct{})
	go w.watch(done, goroutines)
	happens(done)
	close(done)
	for _, i := range w.running() {
		w.quit(i, false)
	}
	report := w.t.Logf
	if len(w.failures) > 0 {
		report = w.t.Errorf
	}
	report("seed %d: %s", w.seed, w.sum())
}

// sum returns the totals so far.
func (w *world) sum() string {
	w.ca.mu.Lock()
	defer w.ca.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	return fmt.Sprintf("%d orders, %d certificates, %d requests refused by a limit, %d instances, %d handshakes sampled; broken rules: %v",
		w.ca.asked.Load(), w.ca.signed, w.ca.limited, w.born, w.samples.Load(), w.failures)
}

// happens runs a theme, which must end within its week.
func (w *world) happens(x theme, end time.Time) {
	w.mu.Lock()
	w.say("theme %s", x.name)
	w.mu.Unlock()
	if testing.Verbose() {
		w.t.Logf("%s: theme %s, after %s", w.stamp(time.Now()), x.name, w.sum())
	}
	x.run()
	if time.Now().After(end) {
		w.t.Fatalf("theme %q takes longer than its week", x.name)
	}
}

// populate makes the hosts of the first day: most with 90 days, a fifth with
// 45, a sixteenth with six, and a few with renewal information; wildcards, some
// hosts on demand, and one host of the local CA.
func (w *world) populate() {
	for n := range w.hosts {
		w.add(w.newTenant(n))
	}
	// Only one: LocalCA holds its lock while it waits for storage, and a
	// goroutine that waits for a mutex stops the clock.
	w.add(tenant{name: "local.internal", life: 12 * time.Hour})
}

func (w *world) newTenant(n int) tenant {
	s := tenant{name: fmt.Sprintf("h%d.site%d.com", n, n/10), life: day(90), ari: n%25 == 7}
	switch {
	case n%25 == 0:
		s.name, s.life, s.demand = fmt.Sprintf("d%d.demand%d.com", n, n/100), day(6), true
	case n%50 == 1:
		s.name = fmt.Sprintf("*.w%d.wild%d.com", n, n/500)
	case n%16 == 2:
		s.life = day(6)
	case n%5 == 3:
		s.life, s.ari = day(45), false
	}
	return s
}

// churn removes hosts and adds them again, and breaks and mends validations.
func (w *world) churn(done chan struct{}) {
	for {
		select {
		case <-done:
			return
		case <-time.After(w.between(time.Hour, 11*time.Hour)):
		}
		// wildcards of a theme are removed by it, and hosts with 18 hours live
		// too short for the five orders a week
		s := w.pick(w.hosts/2, func(s *tenant) bool {
			return !strings.HasSuffix(s.name, ".internal") && !strings.HasPrefix(s.name, "*.site") && !strings.HasPrefix(s.name, "short")
		})
		if s == nil {
			continue // the year is about hosts that stay, too
		}
		switch w.roll(8) {
		case 0, 1:
			w.unwant(s)
			time.AfterFunc(w.between(time.Hour, day(40)), func() { w.want(s) })
		case 2:
			w.breaks(s)
			time.AfterFunc(w.between(time.Hour, day(12)), func() { w.mends(s) })
		}
	}
}

// pick returns one of the wanted tenants for which ok is true, or nil if these
// are fewer than least.
func (w *world) pick(least int, ok func(*tenant) bool) *tenant {
	w.mu.Lock()
	defer w.mu.Unlock()
	var some []*tenant
	for _, s := range w.all {
		if !s.wanted.IsZero() && ok(s) {
			some = append(some, s)
		}
	}
	if len(some) < max(least, 1) {
		return nil
	}
	return some[w.roll(len(some))]
}

// restarts regularly restarts all instances, with Close and New, like a deploy.
func (w *world) restarts(done chan struct{}, every time.Duration) {
	next := time.After(12 * time.Hour)
	for {
		select {
		case <-done:
			return
		case <-next:
			next = time.After(every)
		}
		w.restart()
	}
}

func (w *world) restart() {
	w.turn <- struct{}{}
	defer func() { <-w.turn }()
	for _, i := range w.running() {
		w.quit(i, false)
		w.launch()
	}
}

// A theme is what goes wrong in one week.
type theme struct {
	name string
	run  func()
}

// themes returns the themes of a year, shuffled by the seed. Each comes once
// before any comes again.
func (w *world) themes() []theme {
	var once, more []theme
	add := func(times int, name string, run func()) {
		once = append(once, theme{name, run})
		more = append(more, slices.Repeat([]theme{{name, run}}, times-1)...)
	}
	add(3, "CA fails", func() { w.suffers(&w.ca.fault, "ca", "errors", w.between(2*time.Hour, 40*time.Hour)) })
	add(1, "CA fails for days", func() { w.suffers(&w.ca.fault, "ca", "errors", day(3)) })
	add(1, "CA is busy", func() { w.suffers(&w.ca.fault, "ca", "busy", 10*time.Hour) })
	add(2, "CA is slow", func() { w.suffers(&w.ca.fault, "ca", "slow", day(2)) })
	add(3, "CA hangs", w.crowd)
	add(3, "storage is failing", func() { w.suffers(&w.storage.fault, "storage", "errors", w.between(time.Minute, 6*time.Hour)) })
	add(2, "storage hangs", func() { w.suffers(&w.storage.fault, "storage", "hangs", w.between(time.Minute, 4*time.Hour)) })
	add(1, "storage is slow", func() { w.suffers(&w.storage.fault, "storage", "slow", 6*time.Hour) })
	add(3, "start without storage", func() { w.outageAtStart() })
	add(2, "storage comes back empty", w.wipe)
	add(3, "database fails", func() { w.suffers(&w.db, "database", "errors", day(3)) })
	add(1, "database hangs", func() { w.suffers(&w.db, "database", "hangs", day(1)) })
	add(2, "flood of one domain", w.flood)
	add(2, "launch of many domains", w.many)
	add(2, "revocation", w.revocation)
	add(2, "crash loop", w.crashLoop)
	add(2, "wildcard that fails", w.wildcard)
	add(3, "kill", w.killOne)
	quiet := theme{"nothing", func() {}}
	more = append(more, slices.Repeat([]theme{quiet}, 52-len(once)-len(more))...)
	w.dice.Lock()
	defer w.dice.Unlock()
	for _, all := range [][]theme{once, more} {
		w.rand.Shuffle(len(all), func(i, k int) { all[i], all[k] = all[k], all[i] })
	}
	return append(once, more...)
}

// crowd makes the CA hang while many clients request a new host.
func (w *world) crowd() {
	time.AfterFunc(time.Hour, func() {
		fresh := w.add(tenant{name: fmt.Sprintf("crowd%d.com", w.roll(1e9)), life: day(90)})
		w.pass(10 * time.Second)
		for range 300 {
			w.crowds.Add(1)
			go w.visit(w.running()[0], fresh)
		}
		w.pass(time.Second)
		if n := w.crowds.Load(); n > maxWaiting {
			w.fail("wait", fresh.name, "%d handshakes wait", n)
		}
	})
	w.suffers(&w.ca.fault, "ca", "hangs", w.between(3*time.Hour, 30*time.Hour))
}

// visit is one client of a crowd.
func (w *world) visit(i *instance, s *tenant) {
	w.impatient(i, s)
	w.crowds.Add(-1)
}

// outageAtStart restarts all instances while storage is down.
func (w *world) outageAtStart() {
	time.AfterFunc(time.Hour, w.restart)
	w.suffers(&w.storage.fault, "storage", "errors", w.between(75*time.Minute, 2*time.Hour))
	w.inspect()
}

// inspect checks all hosts as soon as the rules allow.
func (w *world) inspect() {
	w.pass(warmUp + 5*time.Second)
	w.lookAround()
}

// wipe empties the storage. Instances must write back what they hold, so
// nothing is lost when all are restarted a day later.
func (w *world) wipe() {
	w.mu.Lock()
	w.say("storage is emptied")
	for _, s := range w.all {
		held := !s.wanted.IsZero() && s.covered == nil &&
			slices.ContainsFunc(w.instances, func(i *instance) bool { return time.Now().Before(i.has(s)) })
		if s.say(w, "storage is emptied, held: %v", held); !held {
			s.lose()
		}
	}
	w.mu.Unlock()
	w.storage.wipe()
	w.pass(day(1))
	w.restart()
	w.inspect()
}

// flood adds many hosts of one registered domain, more than the CA signs in a
// week, for a month. A host of another domain must not be affected.
func (w *world) flood() {
	for n := range 80 {
		s := w.add(tenant{name: fmt.Sprintf("t%d-%d.tenants.net", n, w.roll(1e9)), life: day(90), excused: true})
		time.AfterFunc(day(30), func() { w.unwant(s) })
		w.pass(w.between(0, 2*time.Minute))
	}
	other := w.add(tenant{name: fmt.Sprintf("other%d.com", w.roll(1e9)), life: day(90)})
	time.AfterFunc(day(30), func() { w.unwant(other) })
	w.pass(time.Hour)
	w.mu.Lock()
	defer w.mu.Unlock()
	if other.stored.to.IsZero() {
		w.broken("limit", other.name, "it waits, though no limit is about it")
	}
}

// many adds more hosts than the CA accepts orders for in three hours, just
// before another host's renewal is due.
func (w *world) many() {
	short := w.add(tenant{name: fmt.Sprintf("short%d.com", w.roll(1e9)), life: 18 * time.Hour})
	time.AfterFunc(day(1.5), func() { w.unwant(short) })
	w.pass(11*time.Hour + 30*time.Minute)
	for range 400 {
		s := w.add(tenant{name: fmt.Sprintf("l%d.com", w.roll(1e9)), life: day(90)})
		time.AfterFunc(day(5), func() { w.unwant(s) })
	}
}

// revocation makes the CA request a replacement of a fifth of its certificates.
func (w *world) revocation() {
	w.mu.Lock()
	var hit []*tenant
	for _, s := range w.all {
		if s.ari && !s.stored.to.IsZero() && w.roll(5) == 0 {
			s.revoked = time.Now()
			s.say(w, "revoked")
			hit = append(hit, s)
		}
	}
	w.mu.Unlock()
	for _, s := range hit {
		w.ca.revoke(s.name)
	}
}

// crashLoop restarts every few minutes while some hosts cannot be validated.
func (w *world) crashLoop() {
	for n := range 5 {
		s := w.add(tenant{name: fmt.Sprintf("loop%d-%d.com", n, w.roll(1e9)), life: day(90)})
		w.breaks(s)
		time.AfterFunc(day(2), func() { w.unwant(s) })
	}
	for range 12 {
		w.pass(w.between(3*time.Minute, 10*time.Minute))
		w.restart()
	}
}

// wildcard adds a wildcard that covers hosts with certificates. Its validation
// fails for some days, with a restart meanwhile.
func (w *world) wildcard() {
	covered := w.pick(1, func(s *tenant) bool { return strings.Contains(s.name, ".site") })
	if covered == nil {
		return
	}
	_, zone, _ := strings.Cut(covered.name, ".")
	s := w.add(tenant{name: "*." + zone, life: day(90)})
	w.breaks(s)
	w.mu.Lock()
	for _, other := range w.all {
		if strings.HasSuffix(other.name, "."+zone) && other != s {
			other.covered = s
			other.say(w, "covered by %s", s.name)
		}
	}
	w.mu.Unlock()
	w.pass(day(1))
	w.restart()
	w.inspect()
	w.pass(day(2))
	w.mends(s)
	time.AfterFunc(day(30), func() { w.uncover(s) })
}

// uncover removes a wildcard. The hosts that it covered must get their own
// certificates again; that they were served the wildcard's is forgotten.
func (w *world) uncover(wildcard *tenant) {
	w.unwant(wildcard)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.all {
		if s.covered == wildcard {
			s.covered = nil
			for _, i := range w.instances {
				i.forget(s)
			}
			if !s.wanted.IsZero() {
				s.wanted = time.Now()
			}
		}
	}
}

// killOne kills an instance and starts another, several times.
func (w *world) killOne() {
	for range 3 {
		w.pass(w.between(time.Hour, 12*time.Hour))
		w.turn <- struct{}{}
		w.quit(w.running()[0], true)
		w.launch()
		<-w.turn
	}
}
