package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/deploy/guard"
)

// A proxy is the process of deploy run.
type proxy struct {
	dir, https, http string // https is "" if the routes use plain HTTP
	email            string
	local            bool
	drain            time.Duration
	accessLog        bool
	trusted          []netip.Prefix

	log    *slog.Logger
	lock   *os.File
	router hostproxy.Router
	meter  guard.Meter
	server hostproxy.Server
}

// run is the command "run".
func run(args []string) int {
	p := &proxy{log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	fs := p.flags()
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return exitDone
		}
		return exitUsage
	}
	if fs.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "deploy: run: %q is too much: see the usage\n", fs.Args())
		return exitUsage
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := p.run(ctx, hup); err != nil {
		fmt.Fprintln(os.Stderr, "deploy:", err)
		return exitFailed
	}
	return exitDone
}

// flags defines the flags of the command "run".
func (p *proxy) flags() *flag.FlagSet {
	fs := flag.NewFlagSet("run", flag.ContinueOnError)
	dirFlag(fs, &p.dir)
	fs.StringVar(&p.https, "https", ":443", "`address` for HTTPS; \"\" serves the routes in plain HTTP")
	fs.StringVar(&p.http, "http", ":80", "`address` for redirects to HTTPS, or for plain HTTP")
	fs.StringVar(&p.email, "email", "", "`contact` for the CA")
	fs.BoolVar(&p.local, "local", false, "certificates of a local CA, for tests: internal names such as app.localhost only")
	fs.DurationVar(&p.drain, "drain", time.Hour, "how long WebSockets go on in a process that has handed over, and requests after SIGTERM")
	fs.BoolVar(&p.accessLog, "access-log", false, "log each request, not only those that fail")
	fs.Func("trusted-proxies", "`prefixes` of load balancers whose X-Forwarded-For is believed, separated by commas, such as 10.0.0.0/8", p.trust)
	return fs
}

// trust parses the flag -trusted-proxies.
func (p *proxy) trust(text string) error {
	for one := range strings.SplitSeq(text, ",") {
		one = strings.TrimSpace(one)
		prefix, err := netip.ParsePrefix(one)
		if addr, bad := netip.ParseAddr(one); bad == nil && addr.Zone() == "" {
			prefix, err = addr.Prefix(addr.BitLen())
		}
		if err != nil {
			return fmt.Errorf("%q: want prefixes such as 10.0.0.0/8 or addresses, separated by commas", one)
		}
		p.trusted = append(p.trusted, prefix)
	}
	return nil
}

// check returns an error if a flag is invalid.
func (p *proxy) check() error {
	switch {
	case p.drain <= 0:
		return fmt.Errorf("run: -drain %v: want more than 0, such as 1h", p.drain)
	case p.local && p.email != "":
		return errors.New("run: -local asks no CA: leave -email out")
	case p.https == "" && (p.local || p.email != ""):
		return errors.New("run: without -https there are no certificates: leave -local and -email out")
	}
	return nil
}

// run serves until ctx is done, or until it has handed over.
func (p *proxy) run(ctx context.Context, hup <-chan os.Signal) error {
	if err := errors.Join(p.check(), p.openDir()); err != nil {
		return err
	}
	sockets, err := hostproxy.Inherited()
	if err != nil {
		return err
	}
	control, inherited := p.control(sockets)
	if p.lock, err = lock(filepath.Join(p.dir, "lock"), inherited); err != nil {
		return err
	}
	defer p.lock.Close()
	https, plain, err := p.listen(sockets)
	if err != nil {
		return err
	}
	return p.serve(ctx, hup, control, https, plain)
}

// serve is run with open listeners.
func (p *proxy) serve(ctx context.Context, hup <-chan os.Signal, control hostproxy.Listener, https, plain net.Listener) error {
	p.configure()
	m, err := newManager(&p.router, &p.meter, filepath.Join(p.dir, "state.json"), p.log)
	if err != nil {
		return err
	}
	m.passOn = p.passOn
	control.Handler = m
	p.server.Listeners = []hostproxy.Listener{control}
	defer context.AfterFunc(ctx, func() { m.freeze(errOver) })()
	over := make(chan struct{})
	defer close(over)
	go m.onSignal(hup, over)
	m.watchAgain()
	err = p.server.Serve(ctx, https, plain)
	m.freeze(errOver)
	late, cancel := context.WithTimeout(context.Background(), p.drain)
	defer cancel()
	m.wait(late)
	return err
}

// configure configures the Router and the Server.
func (p *proxy) configure() {
	level := slog.LevelWarn
	if p.accessLog {
		level = slog.LevelInfo
	}
	access := hostproxy.AccessLog(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})))
	p.router.Logger, p.router.TrustedProxies = p.log, p.trusted
	p.router.BeginAttempt = p.meter.BeginAttempt
	p.router.Observe = func(x *hostproxy.Exchange) { p.meter.Observe(x); access(x) }
	p.router.TLS.Email = p.email
	if p.local {
		p.router.TLS.Email, p.router.TLS.Issuer = "", new(hostproxy.LocalCA)
	}
	p.server.Router, p.server.DrainTimeout = &p.router, p.drain
}

// openDir creates the directory. Only this user may have access to it.
func (p *proxy) openDir() error {
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return fmt.Errorf("-dir: %w", err)
	}
	info, err := os.Stat(p.dir)
	if err != nil {
		return fmt.Errorf("-dir: %w", err)
	}
	if info.Mode().Perm()&0o022 != 0 && filepath.Separator == '/' {
		return fmt.Errorf("-dir %q has mode %v: others could replace its files; chmod go-w it, or choose another one", p.dir, info.Mode().Perm())
	}
	return nil
}

// control returns the control socket, and whether another process has handed it
// over.
func (p *proxy) control(sockets *hostproxy.Sockets) (hostproxy.Listener, bool) {
	if ln, err := sockets.Listener("listener0"); err == nil { // the name that HandOver uses
		return hostproxy.Listener{Listener: ln, Role: hostproxy.RoleInternal}, true
	}
	return hostproxy.Listener{Addr: "unix:" + filepath.Join(p.dir, socketName), Mode: 0o600, Role: hostproxy.RoleInternal}, false
}

// listen returns the listeners of the routes, inherited or new.
func (p *proxy) listen(sockets *hostproxy.Sockets) (https, plain net.Listener, err error) {
	if p.https != "" {
		if https, err = sockets.Listen("https", "tcp", p.https); err != nil {
			return nil, nil, hint(err)
		}
	}
	if plain, err = sockets.Listen("http", "tcp", p.http); err != nil {
		return nil, nil, hint(err)
	}
	return https, plain, sockets.Close()
}

// hint adds to err what to do if a port is not allowed.
func hint(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: a port below 1024 needs a capability: sudo setcap cap_net_bind_service=+ep on this program", err)
	}
	return err
}

// passOn lets a new process take over. The lock file then belongs to that
// process.
func (p *proxy) passOn() error {
	if err := p.server.HandOver(context.Background(), nil); err != nil {
		return err
	}
	return p.lock.Close()
}
