package serve

import (
	"io"
	"math"
	"net"
	"os"
)

// ReadFrom keeps sendfile for handlers that copy a file to their client. Anything
// else is copied by Write.
func (c *conn) ReadFrom(r io.Reader) (total int64, err error) {
	if !c.sends(r) {
		page := pages.Get().(*[64 << 10]byte)
		defer pages.Put(page)
		return io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{r}, page[:])
	}
	to := c.Conn.(*net.TCPConn)
	l, limited := r.(*io.LimitedReader)
	if !limited {
		return c.sendFile(to, r.(*os.File), math.MaxInt64)
	}
	total, err = c.sendFile(to, l.R.(*os.File), l.N)
	l.N -= total
	return total, err
}

// sends reports whether r is something for sendfile.
func (c *conn) sends(r io.Reader) bool {
	if l, limited := r.(*io.LimitedReader); limited { // what http.ServeContent makes
		r = l.R
	}
	file, ok := r.(*os.File)
	_, isTCP := c.Conn.(*net.TCPConn)
	return ok && isTCP && regular(file)
}

// sendFile sends up to left bytes of file. When a deadline has come in between,
// it goes on behind what has been sent.
func (c *conn) sendFile(to *net.TCPConn, file *os.File, left int64) (total int64, err error) {
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
		if _, err := file.Seek(start+total, io.SeekStart); err != nil { // a copy in user space has read more
			return total, err
		}
	}
}

// regular reports whether file has a place to go back to.
func regular(file *os.File) bool {
	info, err := file.Stat()
	return err == nil && info.Mode().IsRegular()
}
