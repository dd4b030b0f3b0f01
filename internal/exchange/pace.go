package exchange

import (
	"fmt"
	"os"
	"time"
)

// Limits of a request body until the response begins. The client may not pause
// for longer than BodyStall. Once the proxy has waited for it for minBodyGrace
// in all, it must have sent minBodyRate bytes per second of waiting. Only the
// last paceWindow of the waiting time counts. The reason: a slow body occupies
// a connection or stream, and a target. gRPC and extended CONNECT have no such
// limits, since both sides may pause.
const (
	BodyStall    = time.Minute
	minBodyRate  = 240
	minBodyGrace = 10 * time.Second
)

// LingerTime is how long a connection that closes waits for the end of what its
// client still sends.
const LingerTime = 500 * time.Millisecond

// SettleBytes limits how much of an unwanted body is read to keep its
// connection. Bytes must come within each LingerTime.
const SettleBytes = 256 << 10

// ErrSlowBody ends the upload of a client that is slower than minBodyRate.
var ErrSlowBody = fmt.Errorf("request body slower than %d bytes per second: %w", minBodyRate, os.ErrDeadlineExceeded)

// A Pace is how fast a client has recently sent a body: a fast start is
// forgotten. The zero value is for a body that has not begun.
type Pace struct {
	old, mark mileage // start of the window, and of its second half
}

// A mileage is the time that was spent waiting for a client, and the bytes that
// came until then.
type mileage struct {
	waited time.Duration
	n      int64
}

// paceWindow is the waiting time over which a Pace is measured; the measurement
// covers at least half of it. It is longer than BodyStall: after such a pause a
// fast client may have much to catch up with.
const paceWindow = 2 * BodyStall

// TooSlow reports whether a client has recently sent less than minBodyRate.
// waited and n are the total waiting time and the total number of bytes.
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
