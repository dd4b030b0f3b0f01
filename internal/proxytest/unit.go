//go:build unix

package proxytest

import (
	"crypto/x509"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A Unit is a program in processes of its own, started as systemd starts a
// service: it gets two listening sockets, and a socket that it notifies. Its
// own files, as those of its local CA, are in its directory.
type Unit struct {
	HTTPS, Plain string    // addresses of the sockets
	Dir          string    // short enough for the path of a socket
	Program      string    // where the program is installed
	First        *exec.Cmd // the first process
	Log          Log       // what all processes print

	manager *net.UnixConn
	over    chan struct{} // closed when the last process has ended
}

// StartUnit starts this test's binary as a Unit, with the arguments that args
// returns, and waits until it is ready. What is left of it at the end of the
// test is killed.
func StartUnit(t testing.TB, args func(u *Unit) []string) *Unit {
	t.Helper()
	u := &Unit{over: make(chan struct{})}
	var err error
	if u.Dir, err = os.MkdirTemp("", "unit"); err != nil {
		t.Fatalf("proxytest: %v", err)
	}
	t.Cleanup(func() { os.RemoveAll(u.Dir) })
	u.Program = filepath.Join(u.Dir, "program")
	if err := os.Symlink(os.Args[0], u.Program); err != nil {
		t.Fatalf("proxytest: %v", err)
	}
	notify := filepath.Join(u.Dir, "notify")
	u.manager, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: notify, Net: "unixgram"})
	if err != nil {
		t.Fatalf("proxytest: %v", err)
	}
	t.Cleanup(func() { u.manager.Close() })
	u.First = exec.Command(u.Program, args(u)...)
	u.First.Env = append(os.Environ(), UnitEnv+"=1", "XDG_DATA_HOME="+u.Dir, "NOTIFY_SOCKET="+notify, "WATCHDOG_USEC=2000000",
		"LISTEN_PID=mine", "LISTEN_FDS=2", "LISTEN_FDNAMES=https:http")
	u.start(t)
	u.Await(t, "READY=1")
	return u
}

// start starts the first process.
func (u *Unit) start(t testing.TB) {
	t.Helper()
	for _, addr := range []*string{&u.HTTPS, &u.Plain} {
		ln := Listen(t)
		*addr = ln.Addr().String()
		f, err := ln.(*net.TCPListener).File()
		if err != nil {
			t.Fatalf("proxytest: %v", err)
		}
		u.First.ExtraFiles = append(u.First.ExtraFiles, f)
		defer f.Close() // afterwards, only the program holds the sockets
		defer ln.Close()
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatalf("proxytest: %v", err)
	}
	u.First.Stdout, u.First.Stderr = w, w
	err = u.First.Start()
	w.Close()
	if err != nil {
		r.Close()
		t.Fatalf("proxytest: %v", err)
	}
	go func() {
		defer close(u.over)
		defer r.Close()
		_, _ = r.WriteTo(&u.Log) // all processes share the pipe
	}()
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(&u.Log)
		}
	})
	u.killLater(t, u.First.Process.Pid)
}

// killLater kills a process of u, if it still runs at the end of the test.
func (u *Unit) killLater(t testing.TB, pid int) {
	t.Cleanup(func() {
		select {
		case <-u.over:
		default:
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
}

// Said returns the next notification.
func (u *Unit) Said(t testing.TB) string {
	t.Helper()
	b := make([]byte, 4096)
	_ = u.manager.SetReadDeadline(time.Now().Add(2 * Patience))
	n, err := u.manager.Read(b)
	if err != nil {
		t.Fatalf("proxytest: wait for a notification: %v", err)
	}
	return string(b[:n])
}

// Await returns the next notification that contains text.
func (u *Unit) Await(t testing.TB, text string) string {
	t.Helper()
	for {
		if said := u.Said(t); strings.Contains(said, text) {
			return said
		}
	}
}

// Next returns the ID of the process that has taken over.
func (u *Unit) Next(t testing.TB) int {
	t.Helper()
	line, _, _ := strings.Cut(u.Await(t, "MAINPID="), "\n")
	pid, err := strconv.Atoi(strings.TrimPrefix(line, "MAINPID="))
	if err != nil {
		t.Fatalf("proxytest: %v", err)
	}
	u.killLater(t, pid)
	return pid
}

// Roots returns the root of the unit's own authority. It waits until there is
// one.
func (u *Unit) Roots(t testing.TB) *x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	Eventually(t, "the root certificate", func() bool {
		text, err := os.ReadFile(filepath.Join(u.Dir, "certmagic", "localca", "root.crt"))
		return err == nil && pool.AppendCertsFromPEM(text)
	})
	return pool
}

// End stops the process that serves, and waits until no process is left.
func (u *Unit) End(t testing.TB, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatalf("proxytest: %v", err)
	}
	u.Await(t, "STOPPING=1")
	select {
	case <-u.over:
	case <-t.Context().Done():
	}
}
