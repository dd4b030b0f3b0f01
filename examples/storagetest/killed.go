package storagetest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
)

// The environment variables of a process that must hold a lock.
const (
	addressEnv = "STORAGETEST_ADDRESS"
	lockEnv    = "STORAGETEST_LOCK"
)

// locked is the line that this process prints once it holds the lock.
const locked = "storagetest: locked"

// RunKilled checks that a lock is held as long as the process that holds it
// lives, and that another process gets the lock within limit after that process
// is killed.
//
// The process that holds the lock runs the same test of the same test binary.
// In it, the first call of RunKilled takes the lock and does not return. start
// is called only in the first process, and returns the address of the storage.
// open opens the storage at that address, in both processes. If a test needs
// anything before that, such as a server, start must start it.
func RunKilled(t *testing.T, limit time.Duration, start func(t *testing.T) (address string), open func(t *testing.T, address string) certmagic.Storage) {
	t.Helper()
	if name := os.Getenv(lockEnv); name != "" {
		hold(t, open(t, os.Getenv(addressEnv)), name)
	}
	address := start(t)
	killed(t, limit, address, open(t, address))
}

// hold locks name, reports that, and waits until this process is killed or its
// parent has ended.
func hold(t *testing.T, s certmagic.Storage, name string) {
	t.Helper()
	if err := s.Lock(t.Context(), name); err != nil {
		t.Fatalf("Lock(%q): %v", name, err)
	}
	fmt.Println(locked)
	_, _ = io.Copy(io.Discard, os.Stdin)
	t.SkipNow()
}

// killed lets another process take a lock, kills it, and waits for the lock.
func killed(t testing.TB, limit time.Duration, address string, s certmagic.Storage) {
	t.Helper()
	name := unique()
	kill := holder(t, address, name)
	newRig(t, s, s, patience).isHeld(s, name)
	kill()
	begin := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := s.Lock(ctx, name); err != nil {
		t.Fatalf("Lock(%q) %v after its holder was killed: %v", name, time.Since(begin), err)
	}
	t.Logf("the lock of a killed process came free after %v", time.Since(begin))
	if err := s.Unlock(t.Context(), name); err != nil {
		t.Fatalf("Unlock(%q): %v", name, err)
	}
}

// holder starts this test in another process, waits until that holds the lock,
// and returns a function that kills it with SIGKILL.
func holder(t testing.TB, address, name string) (kill func()) {
	t.Helper()
	levels := strings.Split(t.Name(), "/")
	for i, level := range levels {
		levels[i] = "^" + regexp.QuoteMeta(level) + "$"
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run="+strings.Join(levels, "/"), "-test.count=1")
	cmd.Env = append(os.Environ(), addressEnv+"="+address, lockEnv+"="+name)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe() // closed when this process ends, which ends the other one
	if err != nil {
		t.Fatalf("storagetest: %v", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatalf("storagetest: %v", err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("storagetest: start the holder: %v", err)
	}
	kill = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // its error only says that it was killed
		_ = in.Close()
	}
	t.Cleanup(kill)
	var said strings.Builder
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if lines.Text() == locked {
			return kill
		}
		fmt.Fprintln(&said, lines.Text())
	}
	t.Fatalf("storagetest: the holder ends without the lock:\n%s", said.String())
	return nil
}
