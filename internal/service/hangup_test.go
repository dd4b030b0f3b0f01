//go:build unix

package service_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/service"
)

func TestHangupsHandOverUntilOneSucceeds(t *testing.T) {
	var text bytes.Buffer
	log := slog.New(slog.NewTextHandler(&text, nil))
	calls := make(chan int)
	n := 0
	stop := service.OnHangup(func() error {
		n++
		calls <- n
		if n == 1 {
			return errors.New("no binary")
		}
		return nil
	}, func() *slog.Logger { return log })
	for want := 1; want <= 2; want++ {
		require.NoError(t, syscall.Kill(syscall.Getpid(), syscall.SIGHUP))
		assert.Equal(t, want, <-calls)
	}
	// the sockets are gone: this one has no effect
	require.NoError(t, syscall.Kill(syscall.Getpid(), syscall.SIGHUP))
	stop()
	assert.Equal(t, 2, n)
	assert.Contains(t, text.String(), `level=ERROR msg="hand-over failed; this process continues" cause="no binary"`)
	assert.Contains(t, text.String(), `level=INFO msg="handed over to a new process; open connections go on here"`)
}

func TestAHangupThatASuccessfulHandOverMakesUselessIsLogged(t *testing.T) {
	var text bytes.Buffer
	log := slog.New(slog.NewTextHandler(&text, nil))
	began, finish := make(chan struct{}), make(chan struct{})
	seen := make(chan os.Signal, 2)
	signal.Notify(seen, syscall.SIGHUP)
	defer signal.Stop(seen)
	stop := service.OnHangup(func() error {
		close(began)
		<-finish
		return nil
	}, func() *slog.Logger { return log })
	require.NoError(t, syscall.Kill(syscall.Getpid(), syscall.SIGHUP))
	<-began
	<-seen
	require.NoError(t, syscall.Kill(syscall.Getpid(), syscall.SIGHUP))
	<-seen
	// both channels get a signal before the next one
	require.NoError(t, syscall.Kill(syscall.Getpid(), syscall.SIGHUP))
	<-seen
	close(finish)
	stop()
	assert.Contains(t, text.String(), `level=WARN msg="SIGHUP came during the hand-over and has no effect: send it again, to the new process"`)
}

func TestStopWaitsForTheHandOverInProgress(t *testing.T) {
	began, finish, stopped := make(chan struct{}), make(chan struct{}), make(chan struct{})
	stop := service.OnHangup(func() error {
		close(began)
		<-finish
		return nil
	}, slog.Default)
	require.NoError(t, syscall.Kill(syscall.Getpid(), syscall.SIGHUP))
	<-began
	go func() {
		defer close(stopped)
		stop()
	}()
	select {
	case <-stopped:
		assert.Fail(t, "stop has not waited")
	default:
	}
	close(finish)
	<-stopped
}
