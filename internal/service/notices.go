package service

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The environment variables of the watchdog (sd_watchdog_enabled(3)).
const (
	envWatchdog    = "WATCHDOG_USEC"
	envWatchdogPID = "WATCHDOG_PID"
)

// notices inform the service manager about the servers of a process: READY=1
// when the first one begins, STOPPING=1 when the last one shuts down, and
// WATCHDOG=1 in between. The methods may be called concurrently.
type notices struct {
	mu       sync.Mutex
	log      *slog.Logger
	serving  int  // servers that are not shutting down
	running  int  // all servers
	passed   bool // another process has become the service
	watchdog *watchdog
}

// serve reports that a server with the sockets begins. If it is taking over,
// the old process reports that instead.
func (n *notices) serve(log *slog.Logger, sockets []Socket) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.log = log
	n.running++
	if n.serving++; n.serving > 1 || n.passed {
		return
	}
	for _, s := range sockets {
		if l, ok := s.ln.(*Listener); ok && l.gate != nil && l.gate.waits() {
			n.watch()
			return
		}
	}
	n.tell("READY=1")
	n.watch()
}

// stop reports that a server shuts down.
func (n *notices) stop() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.serving--; n.serving == 0 {
		n.tell("STOPPING=1")
	}
}

// end notes that a server has shut down.
func (n *notices) end() {
	n.mu.Lock()
	var w *watchdog
	if n.running--; n.running == 0 {
		w, n.watchdog, n.passed = n.watchdog, nil, false
	}
	n.mu.Unlock()
	w.end()
}

// reloading reports that a hand-over begins.
func (n *notices) reloading() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tell("RELOADING=1")
}

// pass reports that the process pid is the service from now on. After that
// nothing more is reported.
func (n *notices) pass(pid int) {
	n.mu.Lock()
	n.tell(fmt.Sprintf("MAINPID=%d\nREADY=1", pid))
	n.passed = true
	w := n.watchdog
	n.watchdog = nil
	n.mu.Unlock()
	w.end()
}

// keep reports that this process continues, since the hand-over failed with
// err.
func (n *notices) keep(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.serving > 0 {
		n.tell("READY=1\nSTATUS=" + strings.Map(printable, "hand-over failed: "+err.Error()))
	}
}

// printable replaces control characters, which could end a line.
func printable(r rune) rune {
	if r < ' ' {
		return ' '
	}
	return r
}

// tell sends state, or logs why that failed. n.mu is held.
func (n *notices) tell(state string) {
	if n.passed {
		return
	}
	if err := Notify(state); err != nil {
		n.log.Warn("service manager not notified", "state", state, "cause", err)
	}
}

// watch starts sending watchdog messages, if they are expected. n.mu is held.
func (n *notices) watch() {
	limit, err := watchdogLimit()
	if err != nil {
		n.log.Warn("watchdog not fed", "cause", err)
	}
	if limit == 0 || n.watchdog != nil {
		return
	}
	n.watchdog = &watchdog{log: n.log, each: limit / 2, stop: make(chan struct{}), done: make(chan struct{})}
	go n.watchdog.feed()
}

// watchdogLimit returns how long the service manager waits for a watchdog
// message; 0 if it expects none from this process.
func watchdogLimit() (time.Duration, error) {
	limit, pid := os.Getenv(envWatchdog), os.Getenv(envWatchdogPID)
	if limit == "" || os.Getenv(envNotify) == "" || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0, nil
	}
	n, err := strconv.ParseInt(limit, 10, 64)
	if err != nil || n <= 0 || n > int64(maxWatchdog/time.Microsecond) {
		return 0, errors.New(envWatchdog + " is " + strconv.Quote(limit) + ": want a positive number of microseconds, at most a year")
	}
	return time.Duration(n) * time.Microsecond, nil
}

// maxWatchdog keeps a limit within the range of a Duration.
const maxWatchdog = 365 * 24 * time.Hour

// A watchdog sends watchdog messages.
type watchdog struct {
	log        *slog.Logger
	each       time.Duration
	stop, done chan struct{}
}

// feed sends messages until stop is closed.
func (w *watchdog) feed() {
	defer close(w.done)
	tick := time.NewTicker(w.each)
	defer tick.Stop()
	failed := false
	for {
		select {
		case <-w.stop:
			return
		case <-tick.C:
		}
		err := Notify("WATCHDOG=1")
		if err != nil && !failed { // once: there may be many per second
			w.log.Warn("service manager not notified", "state", "WATCHDOG=1", "cause", err)
		}
		failed = err != nil
	}
}

// end ends feed and waits for it. w may be nil.
func (w *watchdog) end() {
	if w != nil {
		close(w.stop)
		<-w.done
	}
}
