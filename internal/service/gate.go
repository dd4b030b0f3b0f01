package service

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
)

// The words between the process that hands over and the one that takes over,
// each a line on a pipe. Before the second, either may end without harm:
// nothing was accepted.
const (
	wordReady = "ready" // to the old: all sockets are waited on
	// to the new: accept; with the numbers of the sockets whose files are now
	// its own
	wordGo      = "go"
	wordServing = "serving" // to the old: stop accepting
)

// errWithdrawn is what Accept returns if the other process has decided
// otherwise, or ended.
var errWithdrawn = errors.New("the process that was to hand over goes on instead, or has ended")

// A gate keeps the sockets of a process that takes over from accepting anything
// before the old process lets it: until then the old one can still go on
// instead.
type gate struct {
	say, hear *os.File
	opened    chan struct{} // closed when err is known
	err       error

	mu       sync.Mutex
	sockets  *Sockets
	all      []*Listener
	reported bool
}

// openGate returns the gate whose pipes are the file descriptors from fd on.
func openGate(fd int) (*gate, error) {
	say, err := openPipe(fd)
	if err != nil {
		return nil, err
	}
	hear, err := openPipe(fd + 1)
	if err != nil {
		return nil, err
	}
	return &gate{say: say, hear: hear, opened: make(chan struct{})}, nil
}

// start waits for the word of the other process, for the sockets s.
func (g *gate) start(s *Sockets) {
	g.sockets = s
	go g.wait()
}

// wait ends when the other process speaks or ends.
func (g *gate) wait() {
	line, err := bufio.NewReader(io.LimitReader(g.hear, maxLine)).ReadString('\n')
	words := strings.Fields(line)
	g.mu.Lock()
	if err != nil || !g.reported || len(words) == 0 || words[0] != wordGo {
		g.err = errWithdrawn
	} else {
		for _, w := range words[1:] {
			g.own(w)
		}
	}
	g.mu.Unlock()
	close(g.opened)
	if g.err == nil {
		_, _ = fmt.Fprintln(g.say, wordServing)
	}
	g.say.Close()
	g.hear.Close()
}

// own makes the unix socket with that number this process's own. g.mu is held.
func (g *gate) own(number string) {
	n, err := strconv.Atoi(number)
	for _, l := range g.all {
		if err == nil && l.number == n {
			l.owns.Store(true)
		}
	}
}

// add makes l one that is waited for.
func (g *gate) add(l *Listener) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all = append(g.all, l)
}

// pass waits until l may accept.
func (g *gate) pass(l *Listener) error {
	if l.arrived.CompareAndSwap(false, true) {
		g.look()
	}
	select {
	case <-g.opened:
		return g.err
	case <-l.closed:
		return nil // Accept says so
	}
}

// look reports to the other process when each socket is waited on or closed.
func (g *gate) look() {
	left := g.sockets.rest()
	g.mu.Lock()
	defer g.mu.Unlock()
	waited := false
	for _, l := range g.all {
		switch {
		case l.gone():
		case l.arrived.Load():
			waited = true
		default:
			return
		}
	}
	if waited && left == 0 && !g.reported {
		g.reported = true
		_, _ = fmt.Fprintln(g.say, wordReady) // if that fails, there is nothing to hear either
	}
}

// waits reports whether the other process has yet to speak.
func (g *gate) waits() bool {
	select {
	case <-g.opened:
		return false
	default:
		return true
	}
}

// maxLine limits what is read of the other process.
const maxLine = 64 << 10
