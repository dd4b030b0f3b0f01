package serve

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// Differs returns how ln, an inherited socket in place of e's address, differs
// from what e asks for; "" if it does not, or if that is not known.
func (e *Entrance) Differs(ln net.Listener) string {
	if !listensOn(ln.Addr(), e.Addr) {
		return fmt.Sprintf("it listens on %q, and Addr is %q", textOf(ln.Addr()), e.Addr)
	}
	path, unix := strings.CutPrefix(e.Addr, "unix:")
	if !unix || e.Mode == 0 {
		return ""
	}
	if file, err := os.Stat(path); err == nil && file.Mode().Perm() != e.Mode {
		return fmt.Sprintf("its file has mode %#o, and Mode is %#o", file.Mode().Perm(), e.Mode)
	}
	return ""
}

// textOf returns an address as in Entrance.Addr.
func textOf(a net.Addr) string {
	if a.Network() == "unix" {
		return "unix:" + a.String()
	}
	return a.String()
}

// listensOn reports whether a socket at a is one for addr, as in Entrance.Addr.
// A host name, and port 0, may be any.
func listensOn(a net.Addr, addr string) bool {
	if path, unix := strings.CutPrefix(addr, "unix:"); unix {
		return a.Network() == "unix" && filepath.Clean(path) == filepath.Clean(a.String())
	}
	tcp, ok := a.(*net.TCPAddr)
	host, service, err := net.SplitHostPort(addr)
	if !ok || err != nil {
		return false
	}
	if port, err := net.LookupPort("tcp", service); err != nil || port != 0 && port != tcp.Port {
		return false
	}
	if host == "" {
		return tcp.IP.IsUnspecified()
	}
	ip, err := netip.ParseAddr(host)
	switch {
	case err != nil:
		return true
	case ip.IsUnspecified():
		return tcp.IP.IsUnspecified()
	}
	return ip.Unmap().WithZone("") == tcp.AddrPort().Addr().Unmap().WithZone("")
}
