package proxytest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// settled names functions whose goroutines may stay: those of the runtime and
// the testing package, and certmagic's watch over a lock file, which sees only
// every 5 s that its file is gone, and then ends. Read-only.
var settled = []string{
	"github.com/caddyserver/certmagic.keepLockfileFresh(",
	"testing.(*M).", "testing.(*T).Run(", "testing.(*T).Parallel(", "testing.(*F).Fuzz(", "testing.runFuzz", "testing.runTests(",
	"testing.tRunner.func", "internal/fuzz.", "os/signal.loop(", "os/signal.signal_recv(", "runtime.ensureSigM(", "runtime/trace.",
}

// NoLeaks fails the test when a goroutine started during it is still running at
// its end, and prints its stack.
//
// Call it first: Cleanup runs in reverse order, so that whatever the test opens
// later is closed before the check. Under [Main] it fits parallel tests:
// goroutines that another test has started are left to that one, and to the
// look at the end of the run. It looks at all of them, though, which takes
// milliseconds beside many tests: once for each is enough. A [testing/synctest]
// bubble checks itself.
func NoLeaks(t testing.TB) {
	t.Helper()
	noLeaks(t, Patience)
}

func noLeaks(t testing.TB, patience time.Duration) {
	t.Helper()
	own(t.Name())
	before := goroutines()
	t.Cleanup(func() {
		t.Helper()
		if left := leaked(before, t.Name(), patience); len(left) > 0 {
			t.Errorf("proxytest: %d goroutines outlive the test:\n\n%s", len(left), strings.Join(left, "\n\n"))
		}
	})
}

// ownerLabel names the test in the profiler labels of its goroutines. What a
// goroutine starts inherits them.
const ownerLabel = "test"

// own labels the calling goroutine, and all that it starts from now on, as
// owner's.
func own(owner string) {
	pprof.SetGoroutineLabels(pprof.WithLabels(context.Background(), pprof.Labels(ownerLabel, owner)))
}

// Main runs the tests of a package and exits with their code, or with 1 when
// they pass but leave goroutines behind:
//
//	func TestMain(m *testing.M) { proxytest.Main(m) }
//
// The user's data directory is an empty one meanwhile: no test touches the
// certificates of the user who runs it, nor those of another package's tests.
// GODEBUG has one more setting, in the processes that tests start too. Garbage
// is collected less often than usual, unless GOGC is set.
func Main(m *testing.M) {
	dir, err := os.MkdirTemp("", "proxytest")
	if err == nil {
		err = os.Setenv("XDG_DATA_HOME", dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "proxytest:", err)
		os.Exit(1)
	}
	// Stacks show the labels.
	_ = os.Setenv("GODEBUG", strings.TrimPrefix(os.Getenv("GODEBUG")+",tracebacklabels=1", ","))
	if os.Getenv("GOGC") == "" {
		// tests keep little and make plenty of garbage: collections would be an
		// eighth of their work
		debug.SetGCPercent(400)
	}
	own("-") // neither of a test that looks for leaks, nor of none
	code := runAndLook(m)
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// runAndLook runs the tests and looks for goroutines that outlive them.
func runAndLook(m *testing.M) int {
	before := goroutines()
	code := m.Run()
	if code == 0 {
		if left := leaked(before, "", Patience); len(left) > 0 {
			fmt.Fprintf(os.Stderr, "proxytest: %d goroutines outlive the tests:\n\n%s\n", len(left), strings.Join(left, "\n\n"))
			code = 1
		}
	}
	return code
}

// leaked waits until no goroutine is left that is not in before, and returns
// the stacks of those that stay: all, or those of the test owner and its
// subtests, and those that no goroutine has started but a timer. Timers of
// other tests start new ones all the time: of these, only those of the first
// look count.
func leaked(before map[string]string, owner string, patience time.Duration) []string {
	var left []string
	var first map[string]string
	pollSlower(patience, func() bool {
		now := goroutines()
		if first == nil {
			first = now
		}
		left = left[:0]
		for id, stack := range now {
			if _, old := before[id]; !old && isOf(owner, id, stack, first) {
				left = append(left, stack)
			}
		}
		return len(left) == 0
	})
	return left
}

// isOf reports whether a goroutine can be one that owner, or a subtest of it,
// has started. All are of "". What only a timer has started can be if it is in
// first.
func isOf(owner, id, stack string, first map[string]string) bool {
	head, _, _ := strings.Cut(stack, "\n")
	_, label, labelled := strings.Cut(head, `labels:{"`+ownerLabel+`": `)
	if owner == "" {
		return true
	}
	if !labelled {
		_, there := first[id]
		return there
	}
	quoted, _ := strconv.QuotedPrefix(label)
	name, err := strconv.Unquote(quoted)
	return err != nil || name == owner || strings.HasPrefix(name, owner+"/")
}

// buffers are for the text of all stacks: a test may look for leaks a hundred
// times.
var buffers = sync.Pool{New: func() any { return new(make([]byte, 1<<20)) }}

// goroutines returns the stacks of all goroutines but the caller's and the
// settled ones, by goroutine number.
func goroutines() map[string]string {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	n := runtime.Stack(*buf, true)
	for n == len(*buf) {
		*buf = make([]byte, 2*len(*buf))
		n = runtime.Stack(*buf, true)
	}
	stacks := bytes.Split((*buf)[:n], []byte("\n\n"))
	found := make(map[string]string, len(stacks))
	for _, raw := range stacks[1:] { // the first is the caller
		stack := strings.TrimSpace(string(raw))
		if id, ok := goroutineID(stack); ok && !isSettled(stack) {
			found[id] = stack
		}
	}
	return found
}

// goroutineID returns the number in a stack's first line, "goroutine 12
// [running]:".
func goroutineID(stack string) (string, bool) {
	rest, ok := strings.CutPrefix(stack, "goroutine ")
	if !ok {
		return "", false
	}
	id, _, ok := strings.Cut(rest, " ")
	return id, ok
}

func isSettled(stack string) bool {
	for _, name := range settled {
		if strings.Contains(stack, "\n"+name) {
			return true
		}
	}
	return false
}
