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
	told    bool          // to end
}

// start starts the program, unless it runs. It waits for one that is about to
// end.
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

// wait waits for the end of a process.
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

// stop stops the program: politely, and by force when ctx is done. It returns
// when the program has ended, also if another call has told it to.
func (p *program) stop(ctx context.Context) error {
	p.mu.Lock()
	cmd, done := p.process, p.done
	p.told = done != nil
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
