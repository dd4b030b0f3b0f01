package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/status"
)

// A Beside is a server that the program provides.
type Beside interface {
	Serve(context.Context, http.Handler) error
}

// A listening is a Beside that opens its socket before it serves.
type listening interface{ Listen(*tls.Config) error }

// Companions are the settings that all companions share.
type Companions struct {
	Handler http.Handler
	Log     *slog.Logger
	Budget  *Budget            // budget of the servers beside them
	Bounds  Bounds             // those that Budget begins with
	TLS     func() *tls.Config // returns the settings for each companion that listens
	Secure  bool               // a server for TLS runs beside them
}

// Listens reports whether c needs TLS settings.
func Listens(c Beside) bool { _, ok := c.(listening); return ok }

// FaultsOf returns why some of the servers cannot be companions.
func FaultsOf(all []Beside) (errs []error) {
	for i, c := range all {
		if c == nil || isNil(c) {
			errs = append(errs, fmt.Errorf("Server.Companions[%d] is nil: want a server", i))
			continue
		}
		if err := methodFaults(c); err != nil {
			errs = append(errs, fmt.Errorf("Server.Companions[%d]: %w", i, err))
		}
		for j, other := range all[:i] {
			if same(c, other) {
				errs = append(errs, fmt.Errorf("Server.Companions[%d] and [%d] are the same: a companion serves once at a time", j, i))
			}
		}
	}
	return errs
}

// Open opens all companions. On an error it closes the ones that are open. The
// AltSvc is nil if none announces anything.
func (c *Companions) Open(all []Beside) (open []*Companion, alt *AltSvc, err error) {
	alt = new(AltSvc)
	for i, one := range all {
		x, err := c.open(fmt.Sprintf("Server.Companions[%d]", i), one, alt)
		if x != nil {
			open = append(open, x)
		}
		if err != nil {
			for _, x := range open {
				err = errors.Join(err, x.close())
			}
			return nil, nil, err
		}
	}
	if alt.value() == "" {
		alt = nil
	}
	c.Budget.mu.Lock()
	defer c.Budget.mu.Unlock()
	c.Budget.besides = open
	return open, alt, nil
}

// open opens one companion. The Companion is nil if there is nothing to close.
func (c *Companions) open(name string, one Beside, alt *AltSvc) (*Companion, error) {
	x := &Companion{all: c, name: name, run: one.Serve}
	if one, ok := one.(interface{ Close() error }); ok {
		x.end = one.Close
	}
	if one, ok := one.(listening); ok {
		if err := contained("Listen", func() error { return one.Listen(c.TLS()) }); err != nil {
			return nil, x.named(err)
		}
	}
	if one, ok := one.(interface{ AltSvc() string }); ok {
		return x, x.named(x.announce(alt, one.AltSvc))
	}
	return x, nil
}

// announce adds what value returns to alt.
func (c *Companion) announce(alt *AltSvc, value func() string) error {
	var v string
	if err := contained("AltSvc", func() error { v = value(); return nil }); err != nil {
		return err
	}
	switch {
	case v == "":
		return nil
	case altSvcFault(v) != nil:
		return fmt.Errorf("AltSvc returns %q: want a value of Alt-Svc (RFC 7838), such as h3=\":443\"; ma=86400: %w", v, altSvcFault(v))
	case !c.all.Secure:
		return fmt.Errorf("AltSvc returns %q, and the Server has no listener for TLS, whose responses would have it: add one, or return \"\"", v)
	}
	c.altSvc, c.number, c.says = alt, alt.add(v), v
	return nil
}

// contained calls hook. It turns a panic into an error.
func contained(name string, hook func() error) (err error) {
	defer exchange.Contain(name, &err)
	return hook()
}

// closeTime is how long a companion may take to end after it has been told to
// close.
const closeTime = time.Second

var errStays = errors.New("drain timeout: the companion does not end: let its Serve return when its context is done, or give it a method Close")

// A Companion is a server of the program's own that runs beside our servers,
// such as one for HTTP/3. It serves once.
type Companion struct {
	all  *Companions
	name string
	// serves until the context is done, then lets requests in flight finish
	run    func(context.Context, http.Handler) error
	end    func() error           // ends run immediately; nil if that is impossible
	altSvc *AltSvc                // nil if it announces nothing
	number int                    // its number in altSvc
	says   string                 // its announcement
	ended  atomic.Pointer[string] // why it has ended; nil while it serves

	draining context.Context
	cut      context.Context // ends the requests
}

// Serve runs the companion until ctx or handed is done, and then until it has
// ended or its time is over. That is HandOverTimeout if handed is done, and
// DrainTimeout once ctx is. If it ends before, its Alt-Svc is withdrawn
// immediately.
func (c *Companion) Serve(ctx, handed context.Context) error {
	cut, end := context.WithCancel(context.Background())
	defer end()
	draining, drain := context.WithCancel(ctx)
	defer drain()
	defer context.AfterFunc(handed, drain)()
	c.draining, c.cut = draining, cut
	ended := make(chan error, 1)
	go c.serve(ended)
	select {
	case err := <-ended:
		return c.named(err)
	case <-draining.Done():
	}
	if err, ok := c.await(ctx, ended); ok {
		return c.named(err)
	}
	end()
	err := c.close()
	timer := time.NewTimer(closeTime)
	defer timer.Stop()
	select {
	case e := <-ended:
		return c.named(errors.Join(ErrDrainTimeout, err, e))
	case <-timer.C:
		return c.named(errors.Join(errStays, err))
	}
}

// await waits until the companion has ended, and returns what its Serve has
// returned. ok is false if the companion's time is over before.
func (c *Companion) await(ctx context.Context, ended <-chan error) (err error, ok bool) {
	if ctx.Err() == nil { // handed over
		late, stop := after(c.bounds().HandOverTimeout)
		defer stop()
		select {
		case err := <-ended:
			return err, true
		case <-late:
			return nil, false
		case <-ctx.Done():
		}
	}
	late, stop := after(c.bounds().DrainTimeout)
	defer stop()
	select {
	case err := <-ended:
		return err, true
	case <-late:
		return nil, false
	}
}

// after returns a channel that receives after d, or never if d is zero, and a
// function that releases it.
func after(d time.Duration) (<-chan time.Time, func() bool) {
	if d <= 0 {
		return nil, func() bool { return true }
	}
	timer := time.NewTimer(d)
	return timer.C, timer.Stop
}

// named adds the companion's name to err; nil stays nil.
func (c *Companion) named(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", c.name, err)
}

// errExited is the error of a Serve that does not return.
var errExited = errors.New("the companion has ended its goroutine: want Serve to return")

// serve runs the companion. It turns a panic into an error.
func (c *Companion) serve(ended chan<- error) {
	err := errExited // until it returns
	defer func() { c.over(err, ended) }()
	err = contained("Serve", func() error { return c.run(c.draining, c) })
}

// over notes that the companion has ended with err.
func (c *Companion) over(err error, ended chan<- error) {
	why := ""
	if err != nil {
		why = status.Sentence(err.Error())
	}
	c.ended.Store(&why)
	if c.draining.Err() == nil {
		if c.altSvc != nil {
			c.altSvc.withdraw(c.number)
		}
		c.all.Log.Error("a companion has ended before the shutdown", "companion", c.name, "cause", err)
	}
	ended <- err
}

// describe returns how the companion is doing.
func (c *Companion) describe() status.Companion {
	d := status.Companion{Name: c.name, AltSvc: c.says}
	if why := c.ended.Load(); why != nil {
		d.AltSvc, d.Ended, d.Error = "", true, *why
	}
	return d
}

func (c *Companion) close() error {
	if c.end == nil {
		return nil
	}
	return contained("Close", c.end)
}

// bounds returns the limits that are in force.
func (c *Companion) bounds() *Bounds {
	if n := c.all.Budget.changed.Load(); n != nil {
		return n
	}
	return &c.all.Bounds
}

// ServeHTTP serves a request with the common Handler. The request's context
// tells the Handler of the drain, and ends when the companion is cut off.
func (c *Companion) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	ctx, cancel := context.WithCancel(exchange.WithCut(exchange.WithDrain(q.Context(), c.draining), c.cut))
	defer cancel()
	defer context.AfterFunc(c.cut, cancel)()
	if v := c.altSvc.value(); v != "" && c.draining.Err() == nil {
		w.Header().Set("Alt-Svc", v)
	}
	exchange.AwaitTrailers(q)
	passed := q.WithContext(ctx)
	defer exchange.ReturnForm(q, passed)
	c.all.Handler.ServeHTTP(w, passed)
}
