package certs

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/caddyserver/certmagic"
)

const (
	choosers    = 16               // calls of the hook at a time
	maxChoosing = 64               // the same, including calls that hang
	choicePause = 2 * time.Second  // after the first failure of the hook for a host; doubles
	choiceLast  = 5 * time.Minute  // the longest such pause
	choiceTime  = 10 * time.Second // for one call
)

var (
	errManyChoices = errors.New("too many calls of TLS.Host have not returned")
	errNoChoice    = errors.New("TLS.Host did not return in time")
	errDropped     = errors.New("its route was removed")
)

// An inquiry is an unanswered question to the hook.
type inquiry struct {
	done     chan struct{} // closed at the next outcome
	err      error         // the last outcome
	failures int
	running  bool
	again    bool // asked once more in the meantime
	demanded bool // for a host that comes on demand
	passed   bool // its TLS ends elsewhere: any settings in the answer have no effect
}

// reload asks the hook again about a pattern. It reports whether the pattern
// has a route, or is a host on demand, even one that was refused.
func (c *choices) reload(name string) bool {
	if c.manager.routing.passes(name) {
		c.drop(name)
		c.inspect(name)
		return true
	}
	reconsidered := c.manager.demands.reconsider(name)
	if _, known := c.exact(name); !known && !c.manager.options.Wants(name) {
		return reconsidered
	}
	c.ask(name, true)
	return true
}

// reconsider forgets a refusal of a host on demand, which may come from the
// hook, and reports whether there was one.
func (d *demands) reconsider(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, refused := d.verdicts[name]
	delete(d.verdicts, name)
	return refused
}

// ask makes sure that the hook is asked about a pattern. It returns a channel
// that is closed at the outcome, and the last error; both are nil if the answer
// is known. again asks even if the answer is known, an inquiry is running, or
// one has failed and waits.
func (c *choices) ask(name string, again bool) (done <-chan struct{}, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.known[name]; known && !again {
		return nil, nil
	}
	q := c.inquire(name)
	switch {
	case again && q.running:
		q.again = true
	case again && q.err != nil:
		q.err = nil
		c.push(name)
	}
	return q.done, q.err
}

// demand asks about a host that comes on demand, unless its settings are known.
func (c *choices) demand(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.known[name]; !known {
		c.inquire(name).demanded = true
	}
}

// inspect asks once about a pattern whose TLS ends elsewhere, in order to log
// settings that would have no effect. c may be nil.
func (c *choices) inspect(name string) {
	if c == nil {
		return
	}
	c.mu.RLock()
	_, passed := c.passed[name]
	c.mu.RUnlock()
	if passed {
		return
	}
	c.drop(name) // settings from when its TLS ended here
	c.mu.Lock()
	defer c.mu.Unlock()
	c.passed[name] = struct{}{}
	c.inquire(name).passed = true
}

// inspected ends such an inquiry. An error does not mean that there are
// settings.
func (c *choices) inspected(name string, q *inquiry, given Choice, err error) {
	c.mu.Lock()
	current := c.asked[name] == q
	if current {
		close(q.done)
		delete(c.asked, name)
	}
	c.mu.Unlock()
	switch fields := given.fields(); {
	case !current:
	case err != nil:
		c.manager.log.Debug("TLS.Host failed for a Passthrough", "host", name, "cause", err)
	case len(fields) > 0:
		c.manager.log.Error("TLS.Host returned settings for a Passthrough, where they have no effect", "host", name, "settings", fields,
			"remedy", "return the zero HostTLS for the host, and configure TLS at its target")
	}
}

// inquire returns the inquiry about a name, and begins one if needed. c.mu is
// held.
func (c *choices) inquire(name string) *inquiry {
	q := c.asked[name]
	if q == nil {
		q = &inquiry{done: make(chan struct{})}
		c.asked[name] = q
		c.push(name)
	}
	return q
}

// push schedules the inquiry about a name. c.mu is held.
func (c *choices) push(name string) {
	c.ready = append(c.ready, name)
	if c.workers < choosers && c.manager.spawn(c.work) {
		c.workers++
	}
}

// work runs inquiries until none is ready.
func (c *choices) work() {
	for {
		name, q := c.take()
		if q == nil {
			return
		}
		a := c.consult(name)
		if q.passed {
			c.inspected(name, q, a.given, a.err)
			continue
		}
		var ch *choice
		var file *pairFile
		err := a.err
		if err == nil {
			ch, file, err = c.compiled(name, a)
		}
		c.settle(name, q, ch, file, err)
	}
}

// compiled is compile that survives panics: it calls into the program's types.
func (c *choices) compiled(name string, a answer) (ch *choice, file *pairFile, err error) {
	defer rescue("issuer", &err)
	return c.compile(name, a)
}

// take returns the next inquiry; nil means that the worker ends.
func (c *choices) take() (string, *inquiry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.ready) > 0 && c.manager.ctx.Err() == nil {
		name := c.ready[0]
		c.ready = c.ready[1:]
		if q := c.asked[name]; q != nil && !q.running {
			q.running = true
			return name, q
		}
	}
	c.workers--
	return "", nil
}

// An answer is the result of one call of the hook.
type answer struct {
	given  Choice
	err    error
	issuer *draft // nil without one
	fault  error  // error of the issuer
}

// consult calls the hook and reads its issuer, on a separate goroutine. A call
// that hangs keeps that goroutine and a slot.
func (c *choices) consult(name string) answer {
	timer := time.NewTimer(choiceTime)
	defer timer.Stop()
	for {
		answers, before, err := c.call(name)
		if err != nil {
			return answer{err: err}
		}
		select {
		case a := <-answers:
			return a
		case <-before:
		case <-timer.C:
			return answer{err: errNoChoice}
		case <-c.manager.ctx.Done():
			return answer{err: errClosed}
		}
	}
}

// call begins a call of the hook about a name. If one is in flight, it returns
// a channel that is closed when that returns: a name for which the hook hangs
// is retried repeatedly, and must not take the slots of all others.
func (c *choices) call(name string) (answers chan answer, before chan struct{}, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if before := c.calls[name]; before != nil {
		return nil, before, nil
	}
	if len(c.calls) >= maxChoosing {
		return nil, nil, errManyChoices
	}
	c.calls[name] = make(chan struct{})
	answers = make(chan answer, 1)
	go c.answer(name, answers)
	return answers, nil, nil
}

// answer makes one call of the hook.
func (c *choices) answer(name string, answers chan<- answer) {
	defer c.returned(name)
	var a answer
	func() {
		defer rescue("TLS.Host", &a.err)
		a.given, a.err = c.hook(name)
	}()
	if a.err == nil && a.given.Issuer != nil {
		a.issuer, a.fault = draftContained(a.given.Issuer)
	}
	answers <- a
}

// draftContained is draftOf that survives panics: it calls a method of the
// program's issuer.
func draftContained(given certmagic.Issuer) (d *draft, err error) {
	defer rescue("issuer", &err)
	return draftOf(given)
}

// returned notes the end of a call.
func (c *choices) returned(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.calls[name])
	delete(c.calls, name)
}

// An outcome is the result of an inquiry.
type outcome struct {
	name     string
	old, now *choice // choice before (nil if none) and from now on
	err      error   // if not nil, old stays in force
	failures int
	next     time.Time // the next try after err
	demanded bool
}

// settle notes the result of an inquiry and applies it.
func (c *choices) settle(name string, q *inquiry, ch *choice, file *pairFile, err error) {
	c.mu.Lock()
	if c.asked[name] != q || c.manager.ctx.Err() != nil {
		c.mu.Unlock()
		return // its route was removed meanwhile
	}
	old := c.known[name]
	o := outcome{name: name, old: old, err: err, demanded: q.demanded || old != nil && old.demanded}
	if err == nil {
		switch {
		case o.demanded:
			ch = ch.onDemand(name)
		case isPattern(name):
			ch = ch.ofWildcard(name)
		}
		o.now = ch
		c.publish(name, ch, file)
	}
	q.running, q.err = false, err
	close(q.done)
	switch {
	case q.again:
		c.asked[name] = &inquiry{done: make(chan struct{}), failures: q.failures, demanded: q.demanded}
		c.push(name)
	case err == nil:
		delete(c.asked, name)
	default:
		q.done = make(chan struct{})
		q.failures++
		o.next = c.retry(name, q)
	}
	o.failures = q.failures
	c.mu.Unlock()
	c.apply(o)
}

// publish puts a choice in force. c.mu is held.
func (c *choices) publish(name string, ch *choice, file *pairFile) {
	ch.count(1)
	c.known[name].count(-1)
	c.known[name] = ch
	delete(c.files, name)
	if file != nil {
		c.files[name] = file
	}
}

// apply makes the table follow an outcome.
func (c *choices) apply(o outcome) {
	m := c.manager
	switch {
	case o.err != nil && o.old == nil:
		m.undecidable(o.name, undecided(o.name, o.err), o.next, o.failures == 1)
		if o.failures == 1 && m.options.Wants(o.name) {
			m.follower.follow([]string{o.name}) // hosts below a wildcard stop waiting for it
		}
		return
	case o.err != nil:
		level := slog.LevelDebug
		if o.failures == 1 {
			level = slog.LevelWarn
		}
		m.log.Log(m.ctx, level, "TLS.Host failed; the host keeps its settings", "host", o.name, "cause", o.err)
		return
	case o.old != nil && o.old.chain != o.now.chain:
		m.reissue(o.name)
		for _, name := range c.heirs(o.name, o.now) {
			m.reissue(name)
		}
	}
	switch {
	case m.options.Wants(o.name):
		m.follower.follow([]string{o.name})
	case !o.demanded && !m.onDemand(o.name):
		c.drop(o.name) // its route was removed while the question was asked
	}
}

// retry schedules another try and returns its time. c.mu is held.
func (c *choices) retry(name string, q *inquiry) time.Time {
	wait := choiceLast
	if q.failures < 8 {
		wait = choicePause << (q.failures - 1)
	}
	wait = time.Duration(float64(wait) * (0.8 + 0.4*rand.Float64()))
	time.AfterFunc(wait, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.asked[name] == q && !q.running && q.err != nil {
			c.push(name)
		}
	})
	return time.Now().Add(wait)
}

// await waits until the program has answered for a name. It returns an error as
// soon as no answer can be expected soon.
func (c *choices) await(ctx context.Context, w *waiter, name string) error {
	for {
		done, err := c.ask(name, false)
		switch {
		case err != nil:
			return undecided(name, err)
		case done == nil:
			return nil
		}
		if err := c.manager.lobby.until(ctx, w, done); err != nil {
			return undecided(name, err)
		}
		if _, known := c.exact(name); known {
			return nil
		}
		if !c.manager.options.Wants(name) {
			return undecided(name, c.failure(name))
		} // otherwise it has failed, or its route was removed and added again
	}
}

// failure returns the last error of the inquiry about a name, nil if there is
// none.
func (c *choices) failure(name string) error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if q := c.asked[name]; q != nil {
		return q.err
	}
	return nil
}
