package service

import (
	"log/slog"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
)

// OnHangup calls handOver at each SIGHUP until it has succeeded, and logs the
// results. Signals that arrive during a call count as one, which is logged if
// it is lost because that call succeeds. The caller must call stop at the end:
// it waits for a call in progress, and SIGHUP then has the effect that it had
// before.
func OnHangup(handOver func() error, log func() *slog.Logger) (stop func()) {
	hup, done := make(chan os.Signal, 1), make(chan struct{})
	var stopped atomic.Bool
	signal.Notify(hup, syscall.SIGHUP)
	go func() {
		defer close(done)
		for range hup {
			if stopped.Load() {
				return
			}
			err := handOver()
			if err == nil {
				log().Info("handed over to a new process; open connections go on here")
				warnIfLost(hup, log)
				return
			}
			log().Error("hand-over failed; this process continues", "cause", err)
		}
	}()
	return func() {
		signal.Stop(hup) // nothing is sent to hup any more
		stopped.Store(true)
		close(hup)
		<-done
	}
}

// warnIfLost logs a signal that came while the new process started, which may
// have read its files before.
func warnIfLost(hup <-chan os.Signal, log func() *slog.Logger) {
	select {
	case _, ok := <-hup:
		if ok {
			log().Warn("SIGHUP came during the hand-over and has no effect: send it again, to the new process")
		}
	default:
	}
}
