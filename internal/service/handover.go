package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Patience is how long a new process may take to become ready, if the context
// has no deadline.
const Patience = time.Minute

// A Socket is a listener to hand over, with its name.
type Socket struct {
	name string
	ln   net.Listener
}

// SocketOf returns ln as a Socket. A *Listener keeps its own name; any other
// gets the given one.
func SocketOf(ln net.Listener, name string) Socket {
	if l, ok := ln.(*Listener); ok {
		name = l.name
	}
	return Socket{name, ln}
}

// handOver starts cmd, which takes over the sockets. It returns nil once the
// new process serves them. After an error there is no new process, and it has
// accepted no connection.
func handOver(ctx context.Context, cmd *exec.Cmd, sockets []Socket) error {
	c, err := launch(cmd, sockets)
	if err != nil {
		return err
	}
	defer c.hear.Close()
	defer c.say.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.hear.SetReadDeadline(time.Unix(1, 0)) })
	err = c.expect(wordReady)
	if !stop() && err == nil {
		err = os.ErrDeadlineExceeded
	}
	if err != nil {
		return c.fail(err, context.Cause(ctx))
	}
	owned, keep := giveFiles(sockets)
	_ = c.hear.SetReadDeadline(time.Now().Add(beginTime))
	if _, err = fmt.Fprintln(c.say, wordGo+owned); err == nil {
		err = c.expect(wordServing)
	}
	if err != nil {
		keep()
		return c.fail(err, nil)
	}
	return nil
}

// giveFiles makes the new process the owner of the unix sockets' files, before
// it may accept: a shutdown of this process may close the sockets at any time.
// It returns the numbers of those sockets that the new process must own, and a
// function that undoes the change.
func giveFiles(sockets []Socket) (owned string, keep func()) {
	var undo []func()
	for i, s := range sockets {
		switch l := s.ln.(type) {
		case *Listener:
			if l.owns.CompareAndSwap(true, false) {
				owned += " " + strconv.Itoa(i)
				undo = append(undo, func() { l.owns.Store(true) })
			}
		case *net.UnixListener:
			l.SetUnlinkOnClose(false)
			undo = append(undo, func() { l.SetUnlinkOnClose(true) })
		}
	}
	return owned, func() {
		for _, f := range undo {
			f()
		}
	}
}

// beginTime is how long a process that was ready may take to start serving.
const beginTime = 10 * time.Second

// launch starts cmd with the sockets.
func launch(cmd *exec.Cmd, sockets []Socket) (c *child, err error) {
	switch {
	case cmd.Process != nil:
		return nil, errors.New("cmd was started already: want one that was not")
	case len(cmd.ExtraFiles) > 0:
		return nil, errors.New("cmd.ExtraFiles is set: want none, since inherited sockets begin at file descriptor 3")
	}
	var names []string
	var files []*os.File
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	for _, s := range sockets {
		conn, ok := s.ln.(syscall.Conn)
		if !ok {
			return nil, fmt.Errorf("the listener %q, a %T, has no method SyscallConn: want one of net.Listen, or of a type that embeds it", s.name, s.ln)
		}
		f, err := fileOf(conn)
		if err != nil {
			return nil, fmt.Errorf("the listener %q: %w", s.name, err)
		}
		files, names = append(files, f), append(names, s.name)
	}
	c = &child{cmd: cmd}
	hear, say, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	c.hear, files = hear, append(files, say)
	hear, say, err = os.Pipe()
	if err != nil {
		c.hear.Close()
		return nil, err
	}
	c.say, files = say, append(files, hear)
	cmd.ExtraFiles, cmd.Env = files, environ(cmd.Environ(), names)
	if err := cmd.Start(); err != nil {
		c.hear.Close()
		c.say.Close()
		return nil, err
	}
	return c, nil
}

// environ returns the environment of a process that takes over the named
// sockets.
func environ(env, names []string) []string {
	kept := make([]string, 0, len(env)+3)
	for _, v := range env {
		switch name, _, _ := strings.Cut(v, "="); name {
		case envCount, envPID, envNames, envParent, envWatchdogPID:
		default:
			kept = append(kept, v)
		}
	}
	return append(kept, envCount+"="+strconv.Itoa(len(names)), envNames+"="+strings.Join(names, ":"),
		envParent+"="+strconv.Itoa(os.Getpid()))
}
