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

// The messages between the old and the new process, each a line on a pipe.
// Until the second one, either process may end without harm: no connection was
// accepted.
const (
	wordReady = "ready" // to the old process: Accept waits on all sockets
	// to the new process: accept; followed by the numbers of the sockets whose
	// files it owns from now on
	wordGo      = "go"
	wordServing = "serving" // to the old process: stop accepting
)

// errWithdrawn is returned by Accept if the other process has called off the
// hand-over, or has ended.
var errWithdrawn = errors.New("the process that was to hand over goes on instead, or has ended")

// A gate keeps a process that takes over from accepting connections until the
// old process allows it: until then the old process can still continue instead.
type gate struct {
	say, hear *os.File
	opened    chan struct{} // closed when err is known
	err       error

	mu       sync.Mutex
	sockets  *Sockets
	all      []*Listener
	reported bool
}

// openGate returns the gate whose pipes start at file descriptor fd.
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

// start begins to wait for the message of the other process. s are the sockets.
func (g *gate) start(s *Sockets) {
	g.sockets = s
	go g.wait()
}

// wait ends when the other process sends its message or ends.
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

// own makes this process the owner of the unix socket with that number. g.mu is
// held.
func (g *gate) own(number string) {
	n, err := strconv.Atoi(number)
	for _, l := range g.all {
		if err == nil && l.number == n {
			l.owns.Store(true)
		}
	}
}

// add adds l to the listeners that must be waited on.
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
		return nil // Accept reports that
	}
}

// look tells the other process once each socket is waited on or closed.
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
		_, _ = fmt.Fprintln(g.say, wordReady) // if this fails, there will be no answer either
	}
}

// waits reports whether the message of the other process has not come yet.
func (g *gate) waits() bool {
	select {
	case <-g.opened:
		return false
	default:
		return true
	}
}

// maxLine limits what is read from the other process.
const maxLine = 64 << 10
