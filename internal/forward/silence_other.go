//go:build !linux || portable

package forward

import (
	"net"
	"time"
)

// limitSilence does nothing where the system has no such limit. The transport's
// pings find a dead peer after some minutes.
func limitSilence(net.Conn, time.Duration) {}
