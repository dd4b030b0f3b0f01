package hostproxy_test

import (
	"crypto/tls"
	"encoding/json"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// visitEnv is set in a process that only makes handshakes. Its value is the
// address and the time from one handshake to the next.
const visitEnv = "HOSTPROXY_TEST_VISIT"

const maxUnderWay = 16

// An arrival is a full handshake, timed from its planned start: a delay of the
// visitors counts too.
type arrival struct {
	Planned time.Time
	Took    time.Duration
	Err     string
}

// Visitors make full handshakes of healthy.localhost from a process of their
// own. Each starts at its planned time even if earlier ones have not finished,
// so that a slow one does not hide others. At most maxUnderWay run at once; for
// the rest the clock runs too.
type visitors struct {
	t     *testing.T
	leave io.Closer
	gone  chan struct{}

	mu  sync.Mutex
	all []arrival
}

func newVisitors(t *testing.T, addr string, every time.Duration) *visitors {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), visitEnv+"="+addr+" "+every.String())
	cmd.Stderr = os.Stderr
	leave, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	v := &visitors{t: t, leave: leave, gone: make(chan struct{})}
	go v.collect(out)
	t.Cleanup(func() {
		_ = leave.Close()
		<-v.gone
		_ = cmd.Wait()
	})
	return v
}

func (v *visitors) collect(out io.Reader) {
	defer close(v.gone)
	for lines := json.NewDecoder(out); ; {
		var a arrival
		if err := lines.Decode(&a); err != nil {
			assert.ErrorIs(v.t, err, io.EOF)
			return
		}
		assert.Empty(v.t, a.Err)
		v.mu.Lock()
		v.all = append(v.all, a)
		v.mu.Unlock()
	}
}

// await waits for n more handshakes.
func (v *visitors) await(n int) {
	v.t.Helper()
	begin := v.count()
	proxytest.Eventually(v.t, "handshakes", func() bool { return v.count() >= begin+n })
}

func (v *visitors) count() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.all)
}

// end ends the visitors' process.
func (v *visitors) end() {
	v.t.Helper()
	require.NoError(v.t, v.leave.Close())
	<-v.gone
}

// during returns, sorted, how long the handshakes took that were planned for
// the time from begin until end.
func (v *visitors) during(begin, end time.Time) []time.Duration {
	v.mu.Lock()
	defer v.mu.Unlock()
	var took []time.Duration
	for _, a := range v.all {
		if !a.Planned.Before(begin) && a.Planned.Before(end) {
			took = append(took, a.Took)
		}
	}
	slices.Sort(took)
	return took
}

// visitUntilEOF is the main function of the visitors' process. It prints each
// arrival.
func visitUntilEOF(what string) {
	addr, interval, _ := strings.Cut(what, " ")
	every, err := time.ParseDuration(interval)
	if err != nil {
		log.Fatal(err)
	}
	left := make(chan struct{})
	go func() {
		defer close(left)
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	var mu sync.Mutex
	out := json.NewEncoder(os.Stdout)
	tell := func(a arrival) {
		mu.Lock()
		defer mu.Unlock()
		_ = out.Encode(a)
	}
	var under sync.WaitGroup
	slots := make(chan struct{}, maxUnderWay)
	timer := time.NewTimer(0)
	for next := time.Now(); ; timer.Reset(time.Until(next)) {
		select {
		case <-left:
			under.Wait()
			return
		case <-timer.C:
			for ; time.Until(next) <= 0; next = next.Add(every) {
				planned := next
				under.Go(func() {
					select {
					case slots <- struct{}{}:
						tell(arrive(addr, planned))
						<-slots
					case <-left:
						// at least this long
						tell(arrival{Planned: planned, Took: time.Since(planned)})
					}
				})
			}
		}
	}
}

func arrive(addr string, planned time.Time) arrival {
	dialer := net.Dialer{Timeout: 10 * time.Second}
	c, err := tls.DialWithDialer(&dialer, "tcp", addr, &tls.Config{ServerName: "healthy.localhost", InsecureSkipVerify: true})
	a := arrival{Planned: planned, Took: time.Since(planned)}
	if err != nil {
		a.Err = err.Error()
		return a
	}
	_ = c.Close() // the server may close first
	return a
}
