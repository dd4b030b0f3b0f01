package tunnel

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"sync/atomic"
)

// A direction copies the bytes from one side to the other.
type direction struct {
	run       *run
	from, to  End
	src       Side
	dst       io.Writer
	delivered int64 // read only after copy has returned
	report    sync.Once
	writing   atomic.Bool // a write to dst is in progress

	mu     sync.Mutex // allows one writer to dst: copy, or sayGoodbye
	frames Frames     // position in the stream to dst; valid for WebSocket only
	// dst has a Close frame, ours or the source's, or no valid end: a drain
	// writes nothing more to it
	departed bool
}

// An outcome is how a direction ended. It decides what happens to the other
// one.
type outcome uint8

const (
	finished outcome = iota // cleanly: the other direction continues
	// the receiver cannot be told, or does not read: the other direction gets
	// the grace
	lame
	broken // the source failed: the other direction ends, too
)

// copy copies bytes until the source ends or either side fails.
func (d *direction) copy() {
	o := broken
	d.contained(func() { o = d.carry() })
	d.report.Do(func() { d.run.outcomes <- o })
}

// contained calls f. A panic in a foreign connection type ends the tunnel:
// otherwise it would end the program, or leave the other connection open.
func (d *direction) contained(f func()) {
	defer func() {
		if p := recover(); p != nil {
			d.run.settle(d.from, fmt.Errorf("panic in a connection: %v\n%s", p, debug.Stack()))
		}
	}()
	f()
}

func (d *direction) carry() outcome {
	if err := d.deliver(d.src.Buffered); err != nil {
		return d.refused(err)
	}
	var b buffer
	defer b.release()
	for {
		n, err := d.src.Conn.Read(b.room())
		if n > 0 {
			d.run.touch()
			if err := d.deliver(b.room()[:n]); err != nil {
				return d.refused(err)
			}
			d.run.touch()
			b.resize(n)
		}
		if err != nil {
			return d.ended(err)
		}
	}
}

// ended handles the end of the source's stream.
func (d *direction) ended(err error) outcome {
	if !errors.Is(err, io.EOF) {
		d.run.settle(d.from, err)
		return broken
	}
	d.run.settle(d.from, nil)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.run.draining.Load() {
		d.depart() // before the receiver's stream ends
	}
	if c, ok := d.dst.(interface{ CloseWrite() error }); ok && c.CloseWrite() == nil {
		return finished
	}
	if d.run.tunnel.WebSocket && d.from == ByUpstream {
		return broken // a server closes last (RFC 6455, 7.1.1): it does not read on
	}
	return lame
}

// refused handles a receiver that takes no more bytes. It may have sent its
// last bytes before that.
func (d *direction) refused(err error) outcome {
	d.run.settle(d.to, err)
	return lame
}

// deliver writes p to the receiver. In a drain it ends the stream with a Close
// frame at the next border between frames. It drops later bytes, but still
// looks for the source's own Close.
func (d *direction) deliver(p []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.run.draining.Load() {
		if d.run.tunnel.WebSocket {
			d.frames.Skip(p)
		}
		return d.write(p)
	}
	for len(p) > 0 {
		n := d.frames.Next(p)
		if !d.departed {
			if err := d.write(p[:n]); err != nil {
				return err
			}
		}
		p = p[n:]
		d.depart()
	}
	return nil
}

// write writes p and counts it. d.mu is held.
func (d *direction) write(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	d.writing.Store(true)
	n, err := d.dst.Write(p)
	d.writing.Store(false)
	d.delivered += int64(n)
	d.departed = d.departed || err != nil // the position in a frame is unknown
	return err
}

// sayGoodbye begins the drain of a quiet direction. A busy one writes its Close
// itself.
func (d *direction) sayGoodbye() {
	d.contained(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.depart()
	})
}

// depart sends the Close frame once, if dst is between two frames and has not
// had one. It reports the direction as finished if the source has also sent
// Close. d.mu is held.
func (d *direction) depart() {
	if d.frames.Closed() {
		d.departed = true // the source's own Close was passed on
		d.report.Do(func() { d.run.outcomes <- finished })
	}
	if d.departed || !d.frames.AtBorder() {
		return
	}
	d.departed = true
	_, _ = d.dst.Write(closeFrame(d.to)) // copy returns the error, or the grace ends
}

// closeFrame returns a Close frame with status 1001 (RFC 6455, 5.5.1), masked
// if it goes to a server.
func closeFrame(to End) []byte {
	status := [2]byte{1001 >> 8, 1001 & 0xff}
	if to == ByClient {
		return []byte{0x80 | opClose, 2, status[0], status[1]}
	}
	var key [4]byte
	_, _ = rand.Read(key[:]) // never fails
	return []byte{0x80 | opClose, 0x80 | 2, key[0], key[1], key[2], key[3], status[0] ^ key[0], status[1] ^ key[1]}
}
