package certs

import (
	"context"
	"errors"
	"time"
)

const (
	closePatience  = 10 * time.Second // that Close waits for running work
	unlockPatience = 5 * time.Second  // that Close then waits for storage
	maxLeft        = 5                // hosts named when their work is left behind
)

// Close cancels all work, waits for it, and frees its locks. Work that does not
// end within closePatience, such as a call of an issuer that ignores its
// context, is left behind and logged. Later calls do nothing.
func (m *Manager) Close() error {
	var err error
	m.close.Do(func() {
		m.ending.Lock()
		m.cancel()
		m.ending.Unlock()
		m.start.Do(func() { close(m.reporter.done) }) // if not started yet, it never will be
		m.lobby.close()
		m.notices.close()
		m.awaitTasks()
		m.reporter.wait()
		m.engine.port.close()
		for c := range m.issuers.chains() {
			for _, a := range c.authorities {
				a.closeIdle()
			}
		}
		m.engine.stop()
		err = m.leaveStorages()
	})
	return err
}

// awaitTasks waits for the tasks, for at most closePatience.
func (m *Manager) awaitTasks() {
	ended := make(chan struct{})
	go func() { // ends with the last task
		defer close(ended)
		m.tasks.Wait()
	}()
	timer := time.NewTimer(closePatience)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
		m.sayLeft()
	}
}

// sayLeft logs, per issuer, the hosts whose work did not end.
func (m *Manager) sayLeft() {
	said := false
	for c := range m.issuers.chains() {
		for _, a := range c.authorities {
			if hosts := a.busy(); len(hosts) > 0 {
				said = true
				m.log.Error("issuer did not return after its context was canceled; closing without it",
					"issuer", a.key, "hosts", len(hosts), "for_instance", hosts[:min(len(hosts), maxLeft)])
			}
		}
	}
	if !said {
		m.log.Error("background work of certificates did not end after its context was canceled; closing without it")
	}
}

// leaveStorages frees the locks that are held, and waits for storage operations
// in flight.
func (m *Manager) leaveStorages() error {
	ctx, cancel := context.WithTimeout(context.Background(), unlockPatience)
	defer cancel()
	var errs []error
	for _, w := range m.witnesses {
		errs = append(errs, w.storage.unlockAll(ctx))
		if !w.storage.settle(ctx) {
			m.log.Error("storage did not return after its context was canceled; closing without it", "storage", w.storage.String())
		}
	}
	return errors.Join(errs...)
}
