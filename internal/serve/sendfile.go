package serve

import (
	"io"
	"math"
	"net"
	"os"
	"syscall"

	"github.com/hostproxy/hostproxy/internal/peek"
)

// ReadFrom keeps sendfile for handlers that copy a file to their client.
// Anything else is copied by Write.
func (c *conn) ReadFrom(r io.Reader) (int64, error) {
	if n, done, err := c.trySendFile(r); done {
		return n, err
	}
	page := pages.Get().(*[64 << 10]byte)
	defer pages.Put(page)
	return io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{r}, page[:])
}

// trySendFile sends r by sendfile. If r is not a file or c does not support it,
// trySendFile reads nothing and done is false.
func (c *conn) trySendFile(r io.Reader) (n int64, done bool, err error) {
	l := &io.LimitedReader{R: r, N: math.MaxInt64}
	if limited, ok := r.(*io.LimitedReader); ok { // as made by http.ServeContent
		l = limited
	}
	file, ok := l.R.(file)
	to, isTCP := peek.Socket(c.Conn).(*net.TCPConn)
	if !ok || !isTCP || !regular(file) {
		return 0, false, nil
	}
	n, err = c.sendFile(to, file, l.N)
	l.N -= n
	return n, true, err
}

// sendFile sends up to left bytes of file. After a deadline it continues where
// it stopped.
func (c *conn) sendFile(to *net.TCPConn, file file, left int64) (total int64, err error) {
	start, err := file.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, err
	}
	for {
		c.armWrite()
		n, err := to.ReadFrom(&io.LimitedReader{R: file, N: left - total})
		total += n
		if !c.goesOn(int(n), err) {
			return total, err
		}
		// a copy in user space has read more than was sent
		if _, err := file.Seek(start+total, io.SeekStart); err != nil {
			return total, err
		}
	}
}

// A file is an *os.File, or the wrapper that io.Copy passes to a ReadFrom.
type file interface {
	io.ReadSeeker
	syscall.Conn
	Stat() (os.FileInfo, error)
}

// regular reports whether file can be read again from an earlier position.
func regular(file file) bool {
	info, err := file.Stat()
	return err == nil && info.Mode().IsRegular()
}
