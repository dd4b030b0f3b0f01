package serve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"
)

// maxUnixPath is the longest path of a unix socket that every system accepts.
const maxUnixPath = 103

// ListenUnix listens on a unix socket whose file has that mode from the start.
// It replaces a socket left by a process that has ended. It returns an error if
// a process listens there, or if the file is not a socket. Closing the listener
// removes the file. A mode of zero means 0600.
func ListenUnix(path string, mode fs.FileMode) (net.Listener, error) {
	ln, err := listenUnix(path, cmp.Or(mode, 0o600))
	if err != nil {
		return nil, fmt.Errorf("listen %q: %w", "unix:"+path, err)
	}
	return ln, nil
}

func listenUnix(path string, mode fs.FileMode) (net.Listener, error) {
	if len(path) > maxUnixPath {
		return nil, fmt.Errorf("the path of a unix socket has %d bytes: want at most %d", len(path), maxUnixPath)
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { narrowMode(fd, mode) })
	}}
	ln, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, mode); err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
}

// removeStale removes the file at path if it is a socket without a listener.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode()&fs.ModeSocket == 0:
		return errors.New("the file is not a socket: remove it or choose another path")
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	switch {
	case err == nil:
		c.Close()
		return errors.New("another process listens on the socket: stop it or choose another path")
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(path)
	}
	return fmt.Errorf("whether another process listens on the socket is not known: %w: remove it or choose another path", err)
}
