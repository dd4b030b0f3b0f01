// Package reload runs a proxy from one YAML file with its routes, upstreams,
// TLS, listeners and logging. The file is read again when it changes, and on
// SIGHUP:
//
//	p := reload.Proxy{File: "proxy.yaml"}
//	err := p.Run(ctx)
//
// [Config] has the keys of the file. A file is checked first. Then all of it is
// put in force without dropping a connection, or none of it, and one log line
// has all its faults. [Load] and [Compare] check and compare files without a
// running proxy.
//
// reload.go runs the proxy, watch.go watches the files, check.go compares
// configurations, and machine.go checks what a proxy would open. config.go and
// upstreamconfig.go define the file. decode.go, values.go, encode.go, fault.go
// and hints.go read and write it. plan.go, routes.go, upstreams.go, tls.go and
// log.go turn it into hostproxy's types, and stale.go finds what needs a
// restart.
package reload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/signal"
	"reflect"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hostproxy/hostproxy"
)

// A Proxy is a proxy that is configured by a file. Only File is required. Set
// the fields before Run.
type Proxy struct {
	File string // name of the configuration file

	// Handlers can be named in a route, or in a listener of the role internal.
	// The names status and config are reserved.
	Handlers map[string]http.Handler

	// Prepare can set what a file cannot: hooks, Router.TLS.DNS,
	// Server.Companions or Server.Handler. It is called before the first use.
	// It must not change Router.TLS.Host or fields that a file can set. To add
	// an Observe, call the one that is already set. Nil does nothing.
	Prepare func(*hostproxy.Router, *hostproxy.Server)

	// Reloaded is called after each attempt to put another file in force, with
	// nil or with the error that was logged. It must not block or call a method
	// of the Proxy. Nil disables it.
	Reloaded func(error)

	// Stderr gets the log unless Log.Output names a file. Nil means os.Stderr.
	Stderr io.Writer

	// Settle is how long all files must stay unchanged before the file is read,
	// so that an unfinished one is not read. Zero means 200 ms. Poll is how
	// often the files are checked in addition to the system's notifications,
	// which are missing on NFS, for instance. Zero means 10 s.
	Settle, Poll time.Duration

	mu      sync.Mutex // serialises reloads
	serving *serving   // nil until Run has read the file
}

// A serving is a call of Run.
type serving struct {
	p      *Proxy
	logs   *logs
	named  map[string]http.Handler
	status http.Handler
	router *hostproxy.Router
	server *hostproxy.Server
	addrs  []net.Addr

	now     atomic.Pointer[plan] // the plan in force
	since   atomic.Pointer[time.Time]
	refused atomic.Pointer[string] // why and when the latest file was refused; nil if it was not
	stale   atomic.Pointer[string] // what needs a restart; "" or nil means nothing
	atStart map[string][]byte      // contents of plan.startFiles
	looked  fingerprint            // of the files at the last read; guarded by Proxy.mu
}

// Run serves until ctx is done, as hostproxy.Server.Serve does. It reads the
// file again when it changes, and when the process receives SIGHUP. If the file
// has faults at the start, Run returns them. Only one call of Run may be in
// progress.
func (p *Proxy) Run(ctx context.Context) error {
	hup := make(chan os.Signal, 1)
	// first of all: otherwise an early SIGHUP would end the process
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	s, lns, err := p.start()
	if err != nil {
		return err
	}
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.serving = nil
		s.logs.close(p.stderr())
	}()
	s.server.Listeners = append(s.server.Listeners, lns...)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var work sync.WaitGroup
	work.Go(func() { s.watch(ctx, hup) })
	defer work.Wait()
	defer cancel()
	return s.server.Serve(ctx, nil, nil)
}

// start reads the file, opens the listeners and puts everything in force.
func (p *Proxy) start() (*serving, []hostproxy.Listener, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.serving != nil {
		return nil, nil, errors.New("reload: Run is in progress already: use one Proxy for each call")
	}
	s := &serving{p: p, logs: newLogs(p.stderr())}
	s.named = names(p.Handlers, http.HandlerFunc(s.serveConfig), http.HandlerFunc(s.serveStatus))
	next, err := s.load(nil)
	if err != nil {
		return nil, nil, err
	}
	out, end, err := next.openLog(p.stderr())
	if err != nil {
		return nil, nil, next.logFault(err)
	}
	s.logs.set(&next.Log, out, end)
	s.prepare(next)
	for _, u := range next.upstreams {
		err = errors.Join(append([]error{err}, u.apply(nil)...)...)
	}
	if err = errors.Join(err, s.router.Replace(next.routes)); err != nil {
		s.logs.close(p.stderr())
		return nil, nil, err
	}
	lns, err := s.listen(next)
	if err != nil {
		s.logs.close(p.stderr())
		return nil, nil, err
	}
	s.adopt(next)
	s.atStart = next.startContents()
	p.serving = s
	s.logs.logger.Info("serving", "file", p.File, "addresses", s.addrs)
	return s, lns, nil
}

// names returns the handlers that a file may name.
func names(own map[string]http.Handler, config, status http.Handler) map[string]http.Handler {
	all := maps.Clone(own)
	if all == nil {
		all = map[string]http.Handler{}
	}
	all["config"], all["status"] = config, status
	for name, h := range all {
		if !reflect.ValueOf(h).Comparable() { // an http.HandlerFunc: plans compare handlers
			all[name] = &named{h}
		}
	}
	return all
}

// A named is a handler made comparable.
type named struct{ http.Handler }

func (p *Proxy) stderr() io.Writer {
	if p.Stderr == nil {
		return os.Stderr
	}
	return p.Stderr
}

// load returns the plan for the current contents of the file.
func (s *serving) load(old *plan) (next *plan, err error) {
	defer func() {
		if p := recover(); p != nil { // a bug here must not end a proxy that serves
			next, err = nil, Faults{{File: s.p.File, Rule: fmt.Sprintf("the file cannot be judged: %v: report this, and write what changed last in another way", p)}}
			s.logs.logger.Error("panic", "value", p, "stack", string(debug.Stack()))
		}
	}()
	s.looked = fingerprint{s.p.File: stamp(s.p.File)}
	f, err := read(s.p.File)
	if err != nil {
		return nil, err
	}
	next, err = newPlan(f, old, s.named)
	for path, c := range f.read {
		s.looked[path] = c.info
	}
	return next, err
}

// read reads and parses a file.
func read(name string) (*file, error) {
	text, err := readFile(name, maxFile)
	if err != nil {
		return nil, Faults{{File: name, Rule: fmt.Sprintf("the file cannot be read: %v", err)}}
	}
	return parse(name, text)
}

// prepare makes the Router and the Server.
func (s *serving) prepare(next *plan) {
	s.router = next.router()
	s.router.Logger = s.logs.logger
	s.router.Observe = s.logs.observe
	s.router.TLS.Host = func(pattern string) (hostproxy.HostTLS, error) {
		if h := s.now.Load().hosts[pattern]; h != nil {
			return h.HostTLS, nil
		}
		return hostproxy.HostTLS{}, nil
	}
	if next.TLS.HostPolicy != nil {
		s.router.TLS.HostPolicy = func(_ context.Context, host string) error {
			if s.now.Load().onDemand(host) {
				return nil
			}
			return fmt.Errorf("%w: tls.host_policy does not have %s", hostproxy.ErrHostNotAllowed, host)
		}
	}
	if c := next.NotFound; c != nil {
		b := planner{plan: next}
		s.router.NotFound = b.page(c, http.StatusNotFound, "not_found")
	}
	s.server = &hostproxy.Server{Router: s.router, ProxyProtocol: proxyProtocol(next.Server.ProxyProtocol)}
	limits(s.server, next)
	s.status = hostproxy.StatusHandler(s.router)
	if s.p.Prepare != nil {
		s.p.Prepare(s.router, s.server)
	}
}

// proxyProtocol converts c.
func proxyProtocol(c *ProxyProtocol) *hostproxy.ProxyProtocol {
	if c == nil {
		return nil
	}
	return &hostproxy.ProxyProtocol{From: c.From, Timeout: c.Timeout}
}

// limits sets those fields of s that may change while it serves.
func limits(s *hostproxy.Server, from *plan) {
	d, c := reflect.ValueOf(s).Elem(), reflect.ValueOf(&from.Server).Elem()
	for i := range c.NumField() {
		if name := c.Type().Field(i).Name; name != "ProxyProtocol" {
			d.FieldByName(name).SetInt(c.Field(i).Int())
		}
	}
}

// listen opens the listeners.
func (s *serving) listen(next *plan) (lns []hostproxy.Listener, err error) {
	sockets, err := hostproxy.Inherited()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err = errors.Join(err, sockets.Close()); err != nil {
			for _, l := range lns {
				if l.Listener != nil {
					_ = l.Listener.Close()
				}
			}
		}
	}()
	for i, c := range next.listeners() {
		l := hostproxy.Listener{Role: hostproxy.Role(c.Role), H2C: c.H2C, ProxyProtocol: proxyProtocol(c.ProxyProtocol)}
		if c.Handler != "" {
			l.Handler = s.named[c.Handler]
		}
		switch {
		case c.Socket != "":
			l.Listener, err = sockets.Listener(c.Socket)
		case strings.HasPrefix(c.Addr, "unix:"):
			l.Addr, l.Mode = c.Addr, c.Mode
		default:
			l.Listener, err = listenTCP(c.Addr)
		}
		if err != nil {
			f := next.locate("listeners", fmt.Sprint(i), "addr")
			f.Rule = err.Error()
			return lns, Faults{f}
		}
		if l.Listener != nil {
			s.addrs = append(s.addrs, l.Listener.Addr())
		}
		lns = append(lns, l)
	}
	return lns, nil
}

// listenTCP opens a TCP listener. Its error says what to do if the port is not
// allowed.
func listenTCP(addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if errors.Is(err, os.ErrPermission) {
		err = fmt.Errorf("%w: a port below 1024 needs a capability: sudo setcap cap_net_bind_service=+ep on this binary", err)
	}
	return ln, err
}

// Addrs returns the addresses of the TCP listeners and inherited sockets in the
// file's order. It returns nil before they are open.
func (p *Proxy) Addrs() []net.Addr {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.serving == nil {
		return nil
	}
	return p.serving.addrs
}

// Reload reads the file now. It puts the file in force, or changes nothing and
// returns all its Faults. The result is logged. Reload may be called
// concurrently.
func (p *Proxy) Reload() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.serving == nil {
		return errors.New("reload: Reload: no call of Run is in progress")
	}
	return p.serving.reload()
}

// reload is Reload with the mutex held.
func (s *serving) reload() error {
	old := s.now.Load()
	next, err := s.load(old)
	if err == nil {
		err = s.swap(old, next)
	}
	if err != nil {
		s.report(err)
	}
	if s.p.Reloaded != nil {
		s.p.Reloaded(err)
	}
	return err
}

// swap puts next in force, or nothing of it.
func (s *serving) swap(old, next *plan) error {
	if err := next.restart(old).err(); err != nil {
		return err
	}
	if _, err := s.router.CheckReplace(next.routes); err != nil {
		return err
	}
	out, end, err := next.openLog(s.p.stderr())
	if err != nil {
		return next.logFault(err)
	}
	if err := s.limit(old, next); err != nil {
		end()
		return err
	}
	var errs []error
	for place, u := range next.upstreams {
		if was := old.upstreams[place]; was == nil || was.Upstream != u.Upstream {
			errs = append(errs, u.apply(nil)...)
		}
	}
	s.now.Store(next)
	if err := errors.Join(append(errs, s.router.Replace(next.routes))...); err != nil {
		s.now.Store(old)
		end()
		return errors.Join(err, s.limit(next, old))
	}
	s.logs.set(&next.Log, out, end)
	kept := s.settle(old, next)
	s.adopt(next)
	s.applied(old, next, kept)
	return nil
}

// limit changes the Server's limits from those of old to those of next.
func (s *serving) limit(old, next *plan) error {
	if old.Server == next.Server || len(changed(&old.Server, &next.Server)) == 0 {
		return nil
	}
	return s.server.Reload(func(s *hostproxy.Server) { limits(s, next) })
}

// settle changes the targets, canaries and pages of kept upstreams, and the TLS
// of hosts. It returns the upstreams that keep an old setting.
func (s *serving) settle(old, next *plan) (kept []string) {
	for place, u := range next.upstreams {
		if was := old.upstreams[place]; was != nil && was.Upstream == u.Upstream {
			for _, err := range u.apply(was) {
				kept = append(kept, fmt.Sprintf("an old setting of %s: %v", strings.ReplaceAll(place, "\x00", " "), err))
			}
		}
	}
	var patterns []string
	for pattern := range merged(old.hosts, next.hosts) {
		if old.hosts[pattern] != next.hosts[pattern] && next.serves(pattern) {
			patterns = append(patterns, pattern)
		}
	}
	if len(patterns) > 0 {
		s.router.ReloadTLS(patterns...)
	}
	for _, host := range next.TLS.HostPolicy {
		if !old.onDemand(host) {
			s.router.ForgetHostPolicy(host)
		}
	}
	return kept
}

func merged(a, b map[string]*hostTLS) map[string]*hostTLS {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

// serves reports whether a route has this host pattern, or hosts of this
// pattern can get certificates on demand.
func (n *plan) serves(pattern string) bool {
	for p := range n.routes {
		if host, _, _ := strings.Cut(p, "/"); canonical(host) == pattern {
			return true
		}
	}
	return n.onDemand(pattern)
}

// adopt records that next is in force.
func (s *serving) adopt(next *plan) {
	s.now.Store(next)
	now := time.Now()
	s.since.Store(&now)
	s.refused.Store(nil)
}

// logFault turns err, about the log's output, into a fault.
func (f *file) logFault(err error) error {
	at := f.locate("log", "output")
	at.Rule = err.Error() + ": want a file that this process may write"
	return Faults{at}
}

// report logs in one line why a file was refused.
func (s *serving) report(err error) {
	n := 1
	var faults Faults
	if errors.As(err, &faults) {
		n = len(faults)
	}
	text := time.Now().Format(time.RFC3339) + ": " + err.Error()
	s.refused.Store(&text)
	s.logs.logger.Error("configuration refused; the old one stays in force", "file", s.p.File, "faults", n, "error", err)
}

// serveStatus calls s.status, which is created after the routes that lead to
// it.
func (s *serving) serveStatus(w http.ResponseWriter, q *http.Request) { s.status.ServeHTTP(w, q) }

// serveConfig writes the configuration in force.
func (s *serving) serveConfig(w http.ResponseWriter, _ *http.Request) {
	now := s.now.Load()
	w.Header().Set("Content-Type", "application/yaml")
	fmt.Fprintf(w, "# %s, in force since %s\n", comment(s.p.File), s.since.Load().Format(time.RFC3339))
	if r := s.refused.Load(); r != nil {
		fmt.Fprintf(w, "# a later file was refused: %s\n", comment(*r))
	}
	if r := s.stale.Load(); r != nil && *r != "" {
		fmt.Fprintf(w, "# not in force until the process is restarted: %s\n", comment(*r))
	}
	_, _ = io.WriteString(w, now.String())
}

// comment returns s as one line of ASCII.
func comment(s string) string { return strings.Trim(fmt.Sprintf("%+q", s), `"`) }
