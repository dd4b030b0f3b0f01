//go:build !portable

package pool

import (
	"runtime"
	"syscall"
)

// canSplice says whether the system has splice(2).
const canSplice = true

// spliceNonblock is SPLICE_F_NONBLOCK.
const spliceNonblock = 2

// pipeEnds are the descriptors of a pipe.
type pipeEnds struct {
	r, w    int
	cleanup runtime.Cleanup
}

// newPipe opens a pipe, or returns nil if that fails.
func newPipe() *Pipe {
	var fds [2]int
	if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
		return nil
	}
	// if this fails, the pipe is smaller, and works too
	_, _, _ = syscall.Syscall(syscall.SYS_FCNTL, uintptr(fds[0]), syscall.F_SETPIPE_SZ, maxHeld)
	p := &Pipe{pipeEnds: pipeEnds{r: fds[0], w: fds[1]}}
	p.in, p.Out = p.fill, p.drain
	p.cleanup = runtime.AddCleanup(p, closeEnds, fds)
	return p
}

func closeEnds(fds [2]int) {
	syscall.Close(fds[0])
	syscall.Close(fds[1])
}

func (p *Pipe) close() {
	p.cleanup.Stop()
	closeEnds([2]int{p.r, p.w})
}

// fill moves bytes from a socket into the pipe, which is empty.
// syscall.RawConn.Read calls it until it reports true.
func (p *Pipe) fill(fd uintptr) bool {
	n, err := splice(int(fd), p.w, p.room)
	if err == syscall.EAGAIN {
		return false
	}
	p.held, p.err = max(n, 0), err
	return true
}

func (p *Pipe) drain(fd uintptr) bool {
	for p.held > 0 {
		n, err := splice(p.r, int(fd), p.held)
		if err == syscall.EAGAIN {
			return false
		}
		if p.err = err; err != nil {
			return true
		}
		p.held -= n
	}
	return true
}

// splice calls splice(2), again after interrupts.
func splice(from, to, n int) (int, error) {
	for {
		moved, err := syscall.Splice(from, nil, to, nil, n, spliceNonblock)
		if err != syscall.EINTR {
			return int(moved), err
		}
	}
}

// unspliceable reports whether err says that the system cannot splice from this
// socket. No byte was moved then.
func unspliceable(err error) bool { return err == syscall.EINVAL || err == syscall.ENOSYS }
