package certs

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"
)

const (
	maxReports = 10_000      // that wait for a slow Observe; beyond that, the oldest are dropped
	reportWait = time.Second // that Close waits for Observe
)

// A reporter reports the states of hosts to the log and to the program. The
// program's Observe runs on the reporter's own goroutine: if it panics or
// blocks, it delays only later reports.
type reporter struct {
	log     *slog.Logger
	observe func(Status) // nil if the program does not set it

	mu      sync.Mutex
	reports []Status // for observe
	dropped int
	wake    chan struct{}
	done    chan struct{} // closed at the end of loop

	failures tally
	waits    tally
}

func newReporter(log *slog.Logger, observe func(Status)) *reporter {
	return &reporter{log: log, observe: observe, wake: make(chan struct{}, 1), done: make(chan struct{})}
}

// ready reports that a host has a new certificate.
func (r *reporter) ready(s Status) {
	r.log.Info("certificate ready", "host", s.Host, "issuer", s.Issuer, "not_after", s.NotAfter)
	r.add(s)
}

// failed reports a failure: at Warn if it is new and not one of many, otherwise
// at Debug. A failed first certificate on demand is at Info: the name came from
// a client, so nothing is wrong with the program.
func (r *reporter) failed(s Status, why failure, news bool) {
	message := "certificate failed"
	if why == ofPreflight {
		message = "certificate not ordered"
	}
	level := slog.LevelDebug
	switch {
	case !news:
	case s.OnDemand && s.Serial == nil:
		level = slog.LevelInfo
	case r.names(&r.failures, s.Host):
		level = slog.LevelWarn
	}
	r.log.Log(context.Background(), level, message, "host", s.Host, "attempts", s.Attempts, "next_try", s.NextTry,
		at("not_after", s.NotAfter), "cause", s.Err)
	r.add(s)
}

// hopeless reports a host that only a change of the program can help.
func (r *reporter) hopeless(s Status) {
	if r.names(&r.failures, s.Host) {
		r.log.Error("no certificate possible", "host", s.Host, "cause", s.Err)
	}
	r.add(s)
}

// held reports a host that must wait for a CA: at Info if it is new and not one
// of many, otherwise at Debug. Nothing has failed, and no action is needed.
func (r *reporter) held(s Status, news bool) {
	level := slog.LevelDebug
	if news && r.names(&r.waits, s.Host) {
		level = slog.LevelInfo
	}
	r.log.Log(context.Background(), level, "certificate delayed", "host", s.Host, "next_try", s.NextTry,
		at("not_after", s.NotAfter), "cause", s.Err)
	r.add(s)
}

// names counts a host, and reports whether it gets its own log line.
func (r *reporter) names(t *tally, host string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	named := t.name(host)
	if t.silent == 1 {
		r.poke()
	}
	return named
}

// summarize logs the hosts that got no log lines of their own.
func (r *reporter) summarize() {
	r.mu.Lock()
	failed, failures := r.failures.take()
	held, waits := r.waits.take()
	r.mu.Unlock()
	if failed > 0 {
		r.log.Warn("certificates of more hosts failed", "hosts", failed, "for_instance", failures)
	}
	if held > 0 {
		r.log.Info("certificates of more hosts delayed", "hosts", held, "for_instance", waits)
	}
}

func (r *reporter) add(s Status) {
	if r.observe == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.reports) >= maxReports {
		r.reports = r.reports[1:]
		r.dropped++
	}
	r.reports = append(r.reports, s)
	r.poke()
}

func (r *reporter) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// loop is the reporter's goroutine. When ctx is done it delivers the remaining
// reports and ends.
func (r *reporter) loop(ctx context.Context) {
	defer close(r.done)
	var summary <-chan time.Time
	for {
		r.deliver()
		r.mu.Lock()
		for _, t := range []*tally{&r.failures, &r.waits} {
			if t.silent > 0 && summary == nil {
				summary = time.After(t.due())
			}
		}
		r.mu.Unlock()
		select {
		case <-r.wake:
		case <-summary:
			summary = nil
			r.summarize()
		case <-ctx.Done():
			r.deliver()
			r.summarize()
			return
		}
	}
}

// deliver passes the waiting reports to the program.
func (r *reporter) deliver() {
	for {
		r.mu.Lock()
		reports, dropped := r.reports, r.dropped
		r.reports, r.dropped = nil, 0
		r.mu.Unlock()
		if dropped > 0 {
			r.log.Warn("TLS.Observe is too slow; reports were dropped", "reports", dropped)
		}
		if len(reports) == 0 {
			return
		}
		for _, s := range reports {
			r.call(s)
		}
	}
}

// call calls the program's hook. If it panics, only this report is lost.
func (r *reporter) call(s Status) {
	defer func() {
		if p := recover(); p != nil {
			r.log.Error("TLS.Observe panicked", "host", s.Host, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	r.observe(s)
}

// wait waits a moment for the end of loop: a hook that blocks must not block
// Close.
func (r *reporter) wait() {
	select {
	case <-r.done:
	case <-time.After(reportWait):
		r.log.Warn("TLS.Observe did not return; closing without it")
	}
}
