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
	"sync/atomic"
	"testing"
	"time"
)

// settled names functions whose goroutines may remain: those of the runtime and
// the testing package, certmagic's watch over a lock file, which checks only
// every 5 s whether its file is gone, and then ends, and those that look for
// leaks. Read-only.
var settled = []string{
	"github.com/caddyserver/certmagic.keepLockfileFresh(", "github.com/hostproxy/hostproxy/internal/proxytest.(*shared).next(",
	"testing.(*M).", "testing.(*T).Run(", "testing.(*T).Parallel(", "testing.(*F).Fuzz(", "testing.runFuzz", "testing.runTests(",
	"testing.tRunner.func", "internal/fuzz.", "os/signal.loop(", "os/signal.signal_recv(", "runtime.ensureSigM(", "runtime/trace.",
}

// NoLeaks fails the test if a goroutine started during it is still running at
// its end, and prints its stack.
//
// Call it first: Cleanup runs in reverse order, so everything that the test
// opens later is closed before the check. Under [Main] it works for parallel
// tests: goroutines of another test are left to that test, and to the check at
// the end of the run. It reads all stacks, though, which takes milliseconds
// beside many tests: one call per test is enough. If no other test has called
// it meanwhile, a number of goroutines that has not grown is enough; the check
// at the end of the run finds one that took another one's place. A
// [testing/synctest] bubble checks itself.
func NoLeaks(t testing.TB) {
	t.Helper()
	noLeaks(t, Patience)
}

func noLeaks(t testing.TB, patience time.Duration) {
	t.Helper()
	own(t.Name())
	alone := dumps().join()
	before, count := dumps().next(), runtime.NumGoroutine()
	t.Cleanup(func() {
		t.Helper()
		defer dumps().leave()
		if alone() && runtime.NumGoroutine() <= count {
			return // no stacks are needed
		}
		if left := leaked(before, t.Name(), patience); len(left) > 0 {
			t.Errorf("proxytest: %d goroutines outlive the test:\n\n%s", len(left), strings.Join(left, "\n\n"))
		}
	})
}

// ownerLabel is the profiler label with the test's name. A goroutine passes its
// labels on to the goroutines that it starts.
const ownerLabel = "test"

// own labels the calling goroutine, and all that it starts from now on, with
// the owner's name.
func own(owner string) {
	pprof.SetGoroutineLabels(pprof.WithLabels(context.Background(), pprof.Labels(ownerLabel, owner)))
}

// Main runs the tests of a package and exits with their code, or with 1 if they
// pass but goroutines remain:
//
//	func TestMain(m *testing.M) { proxytest.Main(m) }
//
// During the run the user's data directory is an empty one, so no test touches
// the certificates of the user, or of another package's tests. GODEBUG gets one
// more setting, also for processes that tests start. Garbage is collected less
// often than usual, unless GOGC is set.
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
		// tests keep little memory and make much garbage: collections would be
		// an eighth of their work
		debug.SetGCPercent(400)
	}
	own("-") // for goroutines of tests without NoLeaks
	code := runAndLook(m)
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// runAndLook runs the tests and checks for goroutines that outlive them.
func runAndLook(m *testing.M) int {
	before := dumps().next()
	code := m.Run()
	if code == 0 {
		if left := leaked(before, "", Patience); len(left) > 0 {
			fmt.Fprintf(os.Stderr, "proxytest: %d goroutines outlive the tests:\n\n%s\n", len(left), strings.Join(left, "\n\n"))
			code = 1
		}
	}
	return code
}

// leaked waits until no goroutines are left except those in before, and returns
// the stacks of those that remain. If owner is "", it returns all; otherwise
// those of the test owner and its subtests, and those started by timers. Timers
// of other tests may start new ones all the time, so of these only those in the
// first check count.
func leaked(before map[string]string, owner string, patience time.Duration) []string {
	var left []string
	var first map[string]string
	pollSlower(patience, func() bool {
		now := dumps().next()
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

// isOf reports whether owner, or a subtest of it, may have started a goroutine.
// It is true if owner is "". A goroutine that a timer started counts if it is
// in first.
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

// dumps returns the stacks for all tests that look for leaks. Read-only.
var dumps = sync.OnceValue(func() *shared { return new(shared) })

// shared shares the stacks of all goroutines between parallel tests: reading
// them stops the program, and takes milliseconds beside many goroutines.
type shared struct {
	joined atomic.Int64 // how many tests have looked for leaks
	here   atomic.Int64 // how many do now

	mu     sync.Mutex
	began  time.Time         // when the stacks were read
	took   time.Duration     // how long that took
	stacks map[string]string // by goroutine number; not changed any more
	text   []byte
}

// join counts a test that looks for leaks until leave is called. alone reports
// whether no other one has done so since.
func (s *shared) join() (alone func() bool) {
	number := s.joined.Add(1)
	first := s.here.Add(1) == 1
	return func() bool { return first && s.joined.Load() == number }
}

func (s *shared) leave() { s.here.Add(-1) }

// next returns the stacks of all goroutines except the settled ones, as they
// are some time after the call: parallel tests that call it at the same time
// share them, so that reading stacks takes at most a tenth of the time.
func (s *shared) next() map[string]string {
	asked := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.began.After(asked) {
		return s.stacks
	}
	if s.here.Load() > 1 {
		time.Sleep(time.Until(s.began.Add(10 * s.took)))
	}
	s.began = time.Now()
	s.stacks = s.read()
	s.took = time.Since(s.began)
	return s.stacks
}

// read returns the stacks of all goroutines except the settled ones.
func (s *shared) read() map[string]string {
	if s.text == nil {
		s.text = make([]byte, 1<<20)
	}
	n := runtime.Stack(s.text, true)
	for n == len(s.text) {
		s.text = make([]byte, 2*len(s.text))
		n = runtime.Stack(s.text, true)
	}
	found := map[string]string{}
	for raw := range bytes.SplitSeq(s.text[:n], []byte("\n\n")) {
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
