package proxytest

import (
	"context"
	"net"
	"os"
	"strconv"
	"testing"
	"time"
)

// A Runner runs a proxy on two listeners until ctx is done, like
// hostproxy.Server.
type Runner interface {
	Serve(ctx context.Context, https, plain net.Listener) error
}

// A Running is a proxy under test.
type Running struct {
	HTTPS, Plain string // host:port of each listener; HTTPS is "" if there is none

	t      testing.TB
	cancel context.CancelFunc
	done   chan struct{} // closed when Serve has returned
	err    error         // error of Serve, once done is closed
}

// Start runs r with a listener for HTTPS and a plain one for redirects. It is
// stopped at the end of the test, and must end without an error.
func Start(t testing.TB, r Runner) *Running {
	t.Helper()
	return start(t, r, Listen(t))
}

// StartPlain runs r with only the plain listener, on which it serves its
// routes.
func StartPlain(t testing.TB, r Runner) *Running {
	t.Helper()
	return start(t, r, nil)
}

func start(t testing.TB, r Runner, https net.Listener) *Running {
	t.Helper()
	plain := Listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	s := &Running{Plain: plain.Addr().String(), t: t, cancel: cancel, done: make(chan struct{})}
	if https != nil {
		s.HTTPS = https.Addr().String()
	}
	go func() {
		defer close(s.done)
		s.err = r.Serve(ctx, https, plain)
	}()
	t.Cleanup(func() {
		t.Helper()
		if err := s.Stop(); err != nil {
			t.Errorf("proxytest: the server ends with: %v", err)
		}
	})
	return s
}

// Drain tells the server to shut down, and does not wait.
func (s *Running) Drain() { s.cancel() }

// Stop tells the server to shut down, waits for that and returns its error. It
// may be called again.
func (s *Running) Stop() error {
	s.t.Helper()
	s.cancel()
	select {
	case <-s.done:
		return s.err
	case <-time.After(4 * Patience):
		s.t.Fatal("proxytest: the server does not end")
		return nil
	}
}

// StopLate is Stop for a server that cannot end in time. Its error is expected
// and does not fail the test.
func (s *Running) StopLate() error {
	s.t.Helper()
	err := s.Stop()
	s.err = nil
	return err
}

// Done is closed when the server has ended.
func (s *Running) Done() <-chan struct{} { return s.done }

// UnitEnv is the environment variable that is set in the processes of a Unit.
const UnitEnv = "HOSTPROXY_TEST_UNIT"

// IsUnit reports whether this process belongs to a Unit. TestMain must then run
// the program, and no tests:
//
//	if proxytest.IsUnit() {
//		main()
//		return
//	}
func IsUnit() bool {
	if os.Getenv(UnitEnv) == "" {
		return false
	}
	// A service manager knows the process ID in advance; StartUnit does not.
	if os.Getenv("LISTEN_PID") == "mine" {
		_ = os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
	}
	return true
}
