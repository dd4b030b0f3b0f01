package certs

import "time"

// The wall clock of a machine may be wrong, and may be set while the process
// runs. Timers, and differences between times from time.Now, are not affected.
// The following are, within limits:
//
//   - Due times of jobs follow the wall clock, since most jobs wait for a date
//     of a certificate and machines sleep. When the clock is set back, pauses
//     are shortened by the same amount; see setBack. When it is set forward,
//     they end early, once.
//   - Times from storage are believed as far as they can be true: a limit for
//     6 h, a failed validation for an hour, a ticket key for a day. A time
//     further in the future was written by a wrong clock.
//   - If the limits of a CA end in the past, their real end is unknown.
//   - A certificate of the LocalCA that is not valid yet is replaced. The
//     clocks of other CAs are not ours.

// clockLook is the time between two checks whether the clock was set back.
const clockLook = 5 * time.Minute

// clockStep is how much the clocks of processes may differ normally.
const clockStep = historySkew

// stepBack returns by how much the wall clock was set back between two times
// from time.Now.
func stepBack(then, now time.Time) time.Duration {
	// without Round, Sub uses the monotonic clock
	return now.Sub(then) - now.Round(0).Sub(then.Round(0))
}

// watchClock is the task that notices when the wall clock is set back.
func (m *Manager) watchClock() {
	ticker := time.NewTicker(clockLook)
	defer ticker.Stop()
	for then := time.Now(); ; {
		select {
		case <-m.ctx.Done():
			return
		case <-ticker.C:
		}
		now := time.Now()
		if by := stepBack(then, now); by >= clockStep {
			m.setBack(by)
		}
		then = now
	}
}

// setBack makes pauses end as if the wall clock had not been set back.
func (m *Manager) setBack(by time.Duration) {
	m.log.Info("the clock has been set back", "by", by.Round(time.Second))
	m.each(func(h *host) { h.setBack(by) })
}

// setBack does that for one host. The manager's lock is held.
func (h *host) setBack(by time.Duration) {
	if o := h.motion; o != nil && !o.next.IsZero() {
		o.next = inTime(o.next)
	}
	switch y := h.summary; {
	case h.queue == nil:
	case h.motion == nil && y != nil && y.by.local() && time.Now().Unix() < y.notBefore:
		h.put(h.manager.loads, load, time.Now())
	default:
		h.queue.advance(h, by, y)
	}
}

// advance makes the job of h due earlier, unless it waits for a date of its
// certificate, y. y may be nil.
func (q *queue) advance(h *host, by time.Duration, y *summary) {
	q.mu.Lock()
	defer q.mu.Unlock()
	j := h.job
	if j.index == 0 || j.ripe {
		return
	}
	if at := j.due / int64(time.Second); y != nil && j.step == load && (at == y.renewAt || at == y.notAfter) {
		return
	}
	j.due -= int64(by)
	q.move(h, j)
}

// inTime returns t by the current wall clock: a time that was derived from
// time.Now before the clock was set still has the old wall clock.
func inTime(t time.Time) time.Time {
	now := time.Now()
	return now.Add(t.Sub(now))
}

// atMost is inTime for a time that is at most a given duration from now.
func atMost(t time.Time, most time.Duration) time.Time {
	now := time.Now()
	return now.Add(min(t.Sub(now), most))
}

// premature reports whether the certificate was signed here, by a clock that
// has been set back since.
func (c *stored) premature() bool { return c.by.local() && time.Now().Before(c.cert.Leaf.NotBefore) }

// local reports whether the authority is a LocalCA.
func (a *authority) local() bool {
	_, local := a.template.(*LocalCA)
	return local
}
