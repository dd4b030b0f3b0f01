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

// observe logs every exchange. It adds a hint if an exchange failed because its
// target names a container at the wrong place.
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

// private reports whether a target has a private address, as containers do.
func private(target string) bool {
	ip, err := netip.ParseAddr(hostOf(target))
	return err == nil && ip.IsPrivate()
}

// loopback reports whether a target is on the machine of the proxy.
func loopback(target string) bool {
	host := hostOf(target)
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// hostOf returns the host of a target, which is host:port with or without a
// scheme. It returns "" for other targets.
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

// inContainer reports whether a file exists that Docker or Podman puts into
// containers.
func inContainer() bool {
	for _, name := range []string{"/.dockerenv", "/run/.containerenv"} {
		if _, err := os.Stat(name); err == nil {
			return true
		}
	}
	return false
}

// listen opens a TCP listener. Its error says what to do if the port is not
// allowed.
func listen(addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EACCES) {
		err = fmt.Errorf("%w: a port below 1024 needs a capability: sudo setcap cap_net_bind_service=+ep on this binary", err)
	}
	return ln, err
}
