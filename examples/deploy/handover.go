package main

import (
	"errors"
	"fmt"
	"os"
	"time"
)

var errHandsOver = errors.New("the proxy hands over to a new process: ask again")

// handOver lets a new process of this program take over. Deploys that wait for
// health are canceled. The guard continues in the new process.
func (m *manager) handOver() error {
	if err := m.mayHandOver(); err != nil {
		return err
	}
	m.freeze(errHandsOver)
	if err := m.passOn(); err != nil {
		m.thaw()
		return err
	}
	return nil
}

// mayHandOver returns an error if requests wait for a resume: the new process
// would get that command, and could not end the wait in this one.
func (m *manager) mayHandOver() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.frozen != nil {
		return errors.New("a hand-over is in progress, or the proxy is about to end")
	}
	for _, a := range m.apps {
		if h := a.Hold; h != nil && h.Kind == kindPause && time.Until(h.Until) > 0 {
			return fmt.Errorf("%q is paused until %s: resume it first", a.name, h.Until.Format(time.TimeOnly))
		}
	}
	m.frozen = errHandsOver
	return nil
}

// onSignal hands over at each signal until over is closed.
func (m *manager) onSignal(hup <-chan os.Signal, over <-chan struct{}) {
	for {
		select {
		case <-over:
			return
		case <-hup:
		}
		if err := m.handOver(); err != nil {
			m.log.Error("the hand-over has failed; this process goes on", "cause", err)
			continue
		}
		m.log.Info("handed over; open connections go on")
	}
}
