package service

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// exitTime is how long a process that has closed its pipe may take to end.
const exitTime = time.Second

// A child is a new process that should take over.
type child struct {
	cmd  *exec.Cmd
	hear *os.File
	say  *os.File
}

// expect reads a line and returns an error if it is not word.
func (c *child) expect(word string) error {
	line := make([]byte, len(word)+1)
	if _, err := io.ReadFull(c.hear, line); err != nil {
		return err
	}
	if !bytes.Equal(line, []byte(word+"\n")) {
		return fmt.Errorf("the new process says %q: want %q", line, word+"\n")
	}
	return nil
}

// fail kills the child and returns why it has not taken over. err is how the
// exchange ended, and cause is why this process stopped it, if it did.
func (c *child) fail(err, cause error) error {
	if c.cmd.WaitDelay == 0 {
		c.cmd.WaitDelay = exitTime // its own children may keep its output open
	}
	exited := make(chan error, 1)
	go func() { exited <- c.cmd.Wait() }()
	late := errors.Is(err, os.ErrDeadlineExceeded)
	closed := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.EPIPE)
	if closed {
		select {
		case exit := <-exited:
			return fmt.Errorf("the new process has ended before it was ready: %w", cmp.Or(exit, errClean))
		case <-time.After(exitTime):
		}
	}
	_ = c.cmd.Process.Kill()
	<-exited
	switch {
	case late && (cause == nil || errors.Is(cause, context.DeadlineExceeded)):
		return fmt.Errorf("the new process was not ready in time, and was killed: %w", context.DeadlineExceeded)
	case late:
		return fmt.Errorf("the new process was killed before it was ready: %w", cause)
	case closed:
		return errors.New("the new process has closed its pipe before it was ready, and was killed")
	}
	return fmt.Errorf("the new process was killed: %w", err)
}

// errClean is the error of a process that ended without one.
var errClean = errors.New("exit status 0")
