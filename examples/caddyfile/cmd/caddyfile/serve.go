package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/hostproxy/hostproxy/examples/caddyfile"
	"github.com/hostproxy/hostproxy/examples/caddyfile/site"
)

// serve serves a file until ctx is done.
func serve(ctx context.Context, c *caddyfile.Config, file string) error {
	running, err := c.Run()
	if err != nil {
		return err
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	done := make(chan struct{})
	var reloads sync.WaitGroup
	reloads.Go(func() { reload(running, file, hup, done) })
	err = site.Serve(ctx, running.Servers()...)
	close(done)
	reloads.Wait()
	return err
}

// reload reads the file again at each signal until done is closed.
func reload(running *caddyfile.Running, file string, hup <-chan os.Signal, done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case <-hup:
		}
		c, err := caddyfile.Load(file, caddyfile.Options{})
		if err == nil {
			err = running.Reload(c)
		}
		if err != nil {
			slog.Error("reload failed; the previous file stays in use", "file", file, "cause", err)
			continue
		}
		slog.Info("reloaded", "file", file)
	}
}
