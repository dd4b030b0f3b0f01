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

// observe logs every exchange, and a hint behind those that look for a service in the proxy's own container.
func observe(l *slog.Logger, inContainer bool) func(*hostproxy.Exchange) {
	access := hostproxy.AccessLog(l)
	return func(x *hostproxy.Exchange) {
		access(x)
		var e *hostproxy.Error
		if inContainer && errors.As(x.Err, &e) && e.Op == "dial" && loopback(e.Target) {
			l.Warn("localhost is this container itself: name the service, or the gateway address of the host", "target", e.Target)
		}
	}
}

// loopback reports whether a target, host:port with or without a scheme, is on the machine that asks.
func loopback(target string) bool {
	if _, rest, ok := strings.Cut(target, "://"); ok {
		target = rest
	}
	host, _, err := net.SplitHostPort(target)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// inContainer reports whether the files that Docker and Podman leave in a container are there.
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
