package exchange

import (
	"fmt"
	"os"
	"time"
)

// Limits of a request body until the response begins. The client may not pause
// for longer than BodyStall. Once the proxy has waited for it for minBodyGrace
// in all, it must have sent minBodyRate bytes a second of that time, or of the
// last paceWindow of it: a slow body occupies a connection or stream, and a
// target. gRPC and extended CONNECT have no such limits, since both sides may
// pause.
const (
	BodyStall    = time.Minute
	minBodyRate  = 240
	minBodyGrace = 10 * time.Second
)

// LingerTime is how long a connection that closes looks for the end of what its
// client still sends.
const LingerTime = 500 * time.Millisecond

// SettleBytes is how much of an unwanted body is read, while something comes
// within each LingerTime, so that its connection can be kept.
const SettleBytes = 256 << 10

// ErrSlowBody ends the upload of a client that sends less than it owes.
var ErrSlowBody = fmt.Errorf("request body slower than %d bytes per second: %w", minBodyRate, os.ErrDeadlineExceeded)

// A Pace is how fast a client sends a body, of late: a fast start is forgotten.
// The zero value is that of a body which has not begun.
type Pace struct {
	old, mark mileage // where the window and its second half begin
}

// A mileage is for how long a client was waited for, and what came until then.
type mileage struct {
	waited time.Duration
	n      int64
}

// paceWindow is the waiting time over which a Pace is measured, at least its
// half: longer than BodyStall, after which a fast client may have much to catch
// up with.
const paceWindow = 2 * BodyStall

// TooSlow reports whether a client that was waited for so long, and has sent n
// bytes, both in all, has sent less of late than it owes.
func (p *Pace) TooSlow(waited time.Duration, n int64) bool {
	late := waited - p.mark.waited
	if late <= minBodyGrace {
		return false
	}
	slow := float64(n-p.old.n) < minBodyRate*(waited-p.old.waited).Seconds()
	if late >= paceWindow/2 {
		p.old, p.mark = p.mark, mileage{waited, n}
	}
	return slow
}
