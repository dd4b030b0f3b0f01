package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/exec"
	"sync"
)

// A program is a command that is either running or stopped.
type program struct {
	args  []string
	ended func() error // called when the process ends by itself

	mu      sync.Mutex // guards the fields below
	process *exec.Cmd
	done    chan struct{} // closed when the process has ended; nil if none is running
	told    bool          // whether the process was told to end
}

// start starts the program unless it is running. If a process is about to end,
// start waits for that first.
func (p *program) start(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.done != nil {
		if !p.told {
			return nil
		}
		done := p.done
		p.mu.Unlock()
		select {
		case <-done:
		case <-ctx.Done():
		}
		p.mu.Lock()
		if ctx.Err() != nil {
			return fmt.Errorf("%s does not end: %w", p.args[0], ctx.Err())
		}
	}
	cmd := exec.Command(p.args[0], p.args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start %q: %w", p.args[0], err)
	}
	p.process, p.done = cmd, make(chan struct{})
	go p.wait(cmd, p.done)
	return nil
}

// wait waits for a process to end.
func (p *program) wait(cmd *exec.Cmd, done chan struct{}) {
	err := cmd.Wait()
	p.mu.Lock()
	told := p.told
	p.done, p.told = nil, false
	p.mu.Unlock()
	close(done)
	if !told {
		log.Printf("%s has ended by itself: %v", p.args[0], err)
		if err := p.ended(); err != nil {
			log.Print(err)
		}
	}
}

// stop interrupts the program, and kills it when ctx is done. It returns when
// the program has ended, even if an earlier call interrupted it.
func (p *program) stop(ctx context.Context) error {
	p.mu.Lock()
	cmd, done := p.process, p.done
	p.told = done != nil
	p.mu.Unlock()
	if done == nil {
		return nil
	}
	if cmd.Process.Signal(os.Interrupt) != nil { // not supported on Windows
		_ = cmd.Process.Kill()
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		_ = cmd.Process.Kill()
		<-done
		return fmt.Errorf("%s had to be killed: %w", p.args[0], ctx.Err())
	}
}
