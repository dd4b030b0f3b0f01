package service

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"sync"
)

var (
	errIdle     = errors.New("there is nothing to hand over: call it while Serve is in progress")
	errBusy     = errors.New("a hand-over is in progress: wait until HandOver returns")
	errOver     = errors.New("the Server has handed over already")
	errStopping = errors.New("the Server is shutting down")
)

// Turns are the times during which servers use their sockets, each from Begin
// to its end. The zero value has none. Its methods may be called concurrently.
type Turns struct {
	notices notices

	mu  sync.Mutex
	all map[any]*turn // by server
}

// Begin begins the turn of a server and notifies the service manager. server is
// a key. The server shuts down when ctx is done. The returned context is done
// when the sockets have been handed over. The caller must call end when the
// server has ended.
func (l *Turns) Begin(ctx context.Context, server any, log *slog.Logger, sockets []Socket) (passed context.Context, end func()) {
	passed, pass := context.WithCancel(context.Background())
	t := &turn{sockets: sockets, pass: pass}
	l.mu.Lock()
	if l.all == nil {
		l.all = make(map[any]*turn)
	}
	l.all[server] = t
	l.mu.Unlock()
	l.notices.serve(log, sockets)
	stop := sync.OnceFunc(func() {
		t.shut()
		l.notices.stop()
	})
	unwatch := context.AfterFunc(ctx, stop)
	return passed, func() {
		unwatch()
		stop()
		pass()
		l.mu.Lock()
		if l.all[server] == t { // otherwise the next turn has begun
			delete(l.all, server)
		}
		l.mu.Unlock()
		l.notices.end()
	}
}

// HandOver hands the sockets of a server over to the process of cmd; if cmd is
// nil, to a new process of this program. It notifies the service manager.
func (l *Turns) HandOver(ctx context.Context, server any, cmd *exec.Cmd) error {
	own := cmd == nil
	if own {
		cmd = exec.Command(os.Args[0], os.Args[1:]...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	}
	if _, ok := ctx.Deadline(); !ok {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, Patience)
		defer stop()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	l.mu.Lock()
	t := l.all[server]
	l.mu.Unlock()
	if t == nil {
		return errIdle
	}
	if err := t.enter(cancel); err != nil {
		return err
	}
	l.notices.reloading()
	err := handOver(ctx, cmd, t.sockets)
	if err == nil {
		l.notices.pass(cmd.Process.Pid)
	} else {
		l.notices.keep(err)
	}
	t.leave(err)
	if err == nil && own {
		go reap(cmd)
	}
	return err
}

// reap waits for a process that has no other waiter: if this process outlives
// it, it would stay a zombie.
func reap(cmd *exec.Cmd) { _ = cmd.Wait() }

// A turn is the time during which a server uses its sockets.
type turn struct {
	sockets []Socket
	pass    context.CancelFunc // reports that they have been handed over

	mu    sync.Mutex
	state error                   // why they cannot be handed over; nil if they can
	stop  context.CancelCauseFunc // ends the hand-over in progress; nil if there is none
}

// shut notes that the server shuts down. It ends a hand-over in progress if the
// new process is not ready yet.
func (t *turn) shut() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state != errOver {
		t.state = errStopping
	}
	if t.stop != nil {
		t.stop(errStopping)
	}
}

// enter begins a hand-over. stop can end it.
func (t *turn) enter(stop context.CancelCauseFunc) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state != nil {
		return t.state
	}
	t.state, t.stop = errBusy, stop
	return nil
}

// leave ends the hand-over.
func (t *turn) leave(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stop = nil
	switch {
	case err == nil:
		t.state = errOver
		t.pass()
	case t.state == errBusy:
		t.state = nil
	}
}
