package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/exec"
	"sync"
)

// A program runs in a process of its own, or does not run.
type program struct {
	args  []string
	ended func() error // called when the process has ended by itself

	mu      sync.Mutex // guards what follows
	process *exec.Cmd
	done    chan struct{} // closed when process has ended; nil if there is none
}

// start starts the program, unless it runs.
func (p *program) start(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done != nil {
		return nil
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

// wait waits for the end of a process.
func (p *program) wait(cmd *exec.Cmd, done chan struct{}) {
	err := cmd.Wait()
	p.mu.Lock()
	own := p.done == done
	if own {
		p.done = nil
	}
	p.mu.Unlock()
	close(done)
	if own {
		log.Printf("%s has ended by itself: %v", p.args[0], err)
		if err := p.ended(); err != nil {
			log.Print(err)
		}
	}
}

// stop stops the program: politely, and by force when ctx is done.
func (p *program) stop(ctx context.Context) error {
	p.mu.Lock()
	cmd, done := p.process, p.done
	p.done = nil
	p.mu.Unlock()
	if done == nil {
		return nil
	}
	if cmd.Process.Signal(os.Interrupt) != nil { // not on Windows
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
