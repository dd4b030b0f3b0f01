//go:build unix

package reload

import (
	"net"
	"os"
	"syscall"
)

// writable returns nil if this process may write to the file, or create files
// in the directory. It opens nothing.
func writable(path string) error {
	const write, search = 2, 1
	mode := uint32(write)
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		mode |= search
	}
	return syscall.Access(path, mode)
}

// bindable returns nil if a TCP listener at addr can be opened. It does not
// listen, so no client can connect.
func bindable(addr string) error {
	a, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return err
	}
	if v4 := a.IP.To4(); v4 != nil {
		return bind(syscall.AF_INET, &syscall.SockaddrInet4{Port: a.Port, Addr: [4]byte(v4)})
	}
	six := &syscall.SockaddrInet6{Port: a.Port}
	if a.IP != nil {
		six.Addr = [16]byte(a.IP)
	}
	if zone, err := net.InterfaceByName(a.Zone); err == nil {
		six.ZoneId = uint32(zone.Index)
	}
	err = bind(syscall.AF_INET6, six)
	// this machine has no IPv6
	if err == syscall.EAFNOSUPPORT && (a.IP == nil || a.IP.IsUnspecified()) {
		err = bind(syscall.AF_INET, &syscall.SockaddrInet4{Port: a.Port})
	}
	return err
}

// bind binds a socket as net.Listen does, and closes it.
func bind(family int, to syscall.Sockaddr) error {
	syscall.ForkLock.RLock()
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return err
	}
	if family == syscall.AF_INET6 {
		// otherwise [::] does not include the IPv4 addresses
		_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_IPV6, syscall.IPV6_V6ONLY, 0)
	}
	return syscall.Bind(fd, to)
}
