//go:build unix && !portable

package service

import (
	"errors"
	"os"
	"syscall"
)

// inspect returns why the inherited socket fd cannot be used as a listener, ""
// if it can. It returns an error if fd is not a socket.
func inspect(fd int) (fault string, err error) {
	var stat syscall.Stat_t
	if err := syscall.Fstat(fd, &stat); err != nil {
		return "", errors.New("is not open")
	}
	if stat.Mode&syscall.S_IFMT != syscall.S_IFSOCK {
		return "", errors.New("is not a socket")
	}
	kind, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_TYPE)
	if err != nil {
		return "", err
	}
	listens, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_ACCEPTCONN)
	switch {
	case kind == syscall.SOCK_DGRAM:
		return "a datagram socket: want a stream socket that listens, by ListenStream in the socket unit", nil
	case kind != syscall.SOCK_STREAM:
		return "not a stream socket: want one that listens, by ListenStream in the socket unit", nil
	case err == nil && listens == 0:
		return "a connection or a socket that does not listen: want one that listens, by ListenStream and Accept=no in the socket unit", nil
	}
	return "", nil
}

func closeOnExec(fd int) { syscall.CloseOnExec(fd) }

// fileOf returns a copy of the file descriptor of c. The File method of
// listeners cannot be used: os/exec would make its copy blocking, and also c,
// since both share that flag.
func fileOf(c syscall.Conn) (*os.File, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	var dup error
	err = raw.Control(func(old uintptr) {
		syscall.ForkLock.RLock()
		defer syscall.ForkLock.RUnlock()
		if fd, dup = syscall.Dup(int(old)); dup == nil {
			syscall.CloseOnExec(fd)
		}
	})
	if err == nil {
		err = os.NewSyscallError("dup", dup)
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "socket"), nil
}

// openPipe returns an inherited pipe.
func openPipe(fd int) (*os.File, error) {
	var stat syscall.Stat_t
	if err := syscall.Fstat(fd, &stat); err != nil || stat.Mode&syscall.S_IFMT != syscall.S_IFIFO {
		return nil, errors.New("the pipe to the process that hands over is missing")
	}
	syscall.CloseOnExec(fd)
	if err := syscall.SetNonblock(fd, true); err != nil { // so that Close ends a read
		return nil, err
	}
	return os.NewFile(uintptr(fd), "handover"), nil
}
