// Package proxytest is the test kit: raw TCP peers on both sides of a proxy,
// recording HTTP backends, certificates made on the spot, programs in processes
// of their own under load, and a check that no goroutine outlives its test. It
// is imported by tests only.
//
// Everything takes a [testing.TB], listens on a free loopback port, and is
// closed by Cleanup. Nothing waits longer than [Patience].
package proxytest

import (
	"net"
	"testing"
	"time"
)

// Patience limits every wait in the kit: a test that needs longer hangs.
const Patience = 15 * time.Second

// Listen opens a TCP listener on a free port of 127.0.0.1 and closes it at the
// end of the test.
func Listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("proxytest: listen: %v", err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// Free returns a loopback address that was free a moment ago, for another
// process to listen on. A third process may take it in the meantime: prefer
// [Listen] or [Reserve].
func Free(t testing.TB) string {
	t.Helper()
	ln := Listen(t)
	defer ln.Close()
	return ln.Addr().String()
}

// Refused returns a loopback address where every dial is refused until the test
// ends.
func Refused(t testing.TB) string {
	t.Helper()
	addr, _ := Reserve(t)
	return addr
}

// Reserve returns a loopback address where every dial is refused until release
// is called. After that, the test can listen on it. Before, the port is the
// client's end of an open connection, so no other process can listen on it.
func Reserve(t testing.TB) (addr string, release func()) {
	t.Helper()
	ln := Listen(t)
	defer ln.Close()
	// without it, others could share the port, and keep it
	bound := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}}
	c, err := bound.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	other, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })
	return c.LocalAddr().String(), func() {
		_ = c.(*net.TCPConn).SetLinger(0) // a reset leaves nothing of the connection behind
		c.Close()
	}
}

// Eventually waits until done returns true. After [Patience] it fails the test
// and prints what. It polls: prefer a channel where there is one.
func Eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	if !poll(Patience, done) {
		t.Fatalf("proxytest: still waiting for %s after %v", what, Patience)
	}
}

// poll calls done every few milliseconds until it returns true or patience is
// over.
func poll(patience time.Duration, done func() bool) bool {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !done(); <-tick.C {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// pollSlower is poll for costly checks: each pause is twice as long as the
// previous one, up to 100 ms.
func pollSlower(patience time.Duration, done func() bool) bool {
	pause := 2 * time.Millisecond
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for end := time.Now().Add(patience); !done(); <-tick.C {
		if time.Now().After(end) {
			return false
		}
		pause = min(2*pause, 100*time.Millisecond)
		tick.Reset(pause)
	}
	return true
}
