package service

import (
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

// OnHangup calls handOver at each SIGHUP until it has succeeded, and logs the
// results. Signals that arrive during a call count as one. The caller must call
// stop at the end: it waits for a call in progress, and SIGHUP then has the
// effect that it had before.
func OnHangup(handOver func() error, log func() *slog.Logger) (stop func()) {
	hup, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(hup, syscall.SIGHUP)
	go func() {
		defer close(done)
		for range hup {
			err := handOver()
			if err == nil {
				log().Info("handed over to a new process; open connections go on here")
				return
			}
			log().Error("hand-over failed; this process continues", "cause", err)
		}
	}()
	return func() {
		signal.Stop(hup) // nothing is sent to hup any more
		close(hup)
		<-done
	}
}
