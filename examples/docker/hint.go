package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"github.com/hostproxy/hostproxy"
)

// observe logs every exchange, and a hint behind those that look for a
// container at the wrong place.
func observe(l *slog.Logger, inContainer bool) func(*hostproxy.Exchange) {
	access := hostproxy.AccessLog(l)
	return func(x *hostproxy.Exchange) {
		access(x)
		var e *hostproxy.Error
		if !errors.As(x.Err, &e) || e.Op != "dial" {
			return
		}
		switch refused := errors.Is(x.Err, syscall.ECONNREFUSED); {
		case inContainer && loopback(e.Target):
			l.Warn("localhost is this container itself: name the service, or the gateway address of the host", "target", e.Target)
		case !inContainer && !refused && private(e.Target):
			l.Warn("no answer from the address of a container: rootless daemons and Docker Desktop reach containers by published ports only; publish it (-p 127.0.0.1::PORT)", "target", e.Target)
		}
	}
}

// private reports whether a target is at a private address, as containers are.
func private(target string) bool {
	ip, err := netip.ParseAddr(hostOf(target))
	return err == nil && ip.IsPrivate()
}

// loopback reports whether a target is on the machine that asks.
func loopback(target string) bool {
	host := hostOf(target)
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// hostOf returns the host of a target, host:port with or without a scheme, and
// "" for others.
func hostOf(target string) string {
	if _, rest, ok := strings.Cut(target, "://"); ok {
		target = rest
	}
	host, _, err := net.SplitHostPort(target)
	if err != nil {
		return ""
	}
	return host
}

// inContainer reports whether the files that Docker and Podman leave in a
// container are there.
func inContainer() bool {
	for _, name := range []string{"/.dockerenv", "/run/.containerenv"} {
		if _, err := os.Stat(name); err == nil {
			return true
		}
	}
	return false
}

// listen opens a TCP listener, and says what to do where that is not allowed.
func listen(addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EACCES) {
		err = fmt.Errorf("%w: a port below 1024 needs a capability: sudo setcap cap_net_bind_service=+ep on this binary", err)
	}
	return ln, err
}
