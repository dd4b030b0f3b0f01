package exchange

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
)

// maxPasses is how often a request may pass the same Router. Two passes are
// normal: a service may call another one through the proxy.
const maxPasses = 3

// A Pseudonym is the name of one Router in Via (RFC 9110, 7.6.3). It lets the
// Router recognise requests that come back to it. The zero value has a unique
// name.
type Pseudonym struct {
	once sync.Once
	text string
}

// Text returns the name.
func (p *Pseudonym) Text() string {
	p.once.Do(func() { p.text = Name + "-" + strings.ToLower(rand.Text()[:8]) })
	return p.text
}

// Loop returns the failure of a request whose Via lines name the Router more
// than maxPasses times, else nil.
func Loop(lines []string, name string) *Failure {
	n := 0
	for _, line := range lines {
		n += header.Passes(line, name)
	}
	return looped(n, name)
}

// LoopBytes is Loop in the fast lane.
func LoopBytes(req *h1.Request, name string) *Failure {
	n := 0
	for i := range req.Fields {
		if fd := &req.Fields[i]; len(fd.Name) == len("via") && header.Classify(fd.Name)&header.Via != 0 {
			n += header.Passes(fd.Value, name)
		}
	}
	return looped(n, name)
}

func looped(n int, name string) *Failure {
	if n <= maxPasses {
		return nil
	}
	return &Failure{Op: "pick", Side: SideProxy, Status: http.StatusLoopDetected, Reason: "proxy_loop_detected",
		Err: fmt.Errorf("loop: Via names this proxy (%q) more than %d times: a target must not lead back to the proxy", name, maxPasses)}
}

// Loops returns a handler that refuses q if it is in a loop, or nil.
func (x *Exchange) Loops(q *http.Request) http.Handler {
	fail := Loop(q.Header["Via"], x.Name)
	if fail == nil {
		return nil
	}
	x.Fail(fail)
	return Refuse(fail.Status, fail.Reason)
}

// MaxForwards returns how often an OPTIONS request may still be forwarded: the
// lowest number in its Max-Forwards lines. ok is false if there is none (RFC
// 9110, 7.6.2).
func MaxForwards(q *http.Request) (n int, ok bool) {
	if q.Method != http.MethodOptions {
		return 0, false
	}
	for _, line := range q.Header["Max-Forwards"] {
		if m, valid := parseForwards(line); valid && (!ok || m < n) {
			n, ok = m, true
		}
	}
	return n, ok
}

// maxForwards is the largest number that is passed on.
const maxForwards = 999_999_999

func parseForwards(s string) (n int, ok bool) {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = min(n*10+int(c-'0'), maxForwards)
	}
	return n, s != ""
}
