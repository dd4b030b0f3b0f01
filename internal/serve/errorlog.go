package serve

import (
	"context"
	"log"
	"log/slog"
	"strings"
)

// clientFaults are how net/http's lines begin about connections that a client
// ended, or on which it broke the protocol. Nothing can be done about those
// here. Read-only.
var clientFaults = []string{
	"http2: server: error reading preface from client",
	"http2: server connection error from",
	"http2: server closing client connection",
	"http2: received GOAWAY",
	"http: TLS handshake error from",
	"timeout waiting for SETTINGS frames from",
	"timeout waiting for PING response",
}

// newErrorLog returns the log for net/http: what clients do wrong is for level
// Debug, the rest for Warn.
func newErrorLog(l *slog.Logger) *log.Logger { return log.New(&errorLog{l.Handler()}, "", 0) }

// An errorLog is what a log.Logger writes to, a line at a time.
type errorLog struct{ handler slog.Handler }

// Write implements io.Writer.
func (l *errorLog) Write(line []byte) (int, error) {
	level, text := slog.LevelWarn, strings.TrimSuffix(string(line), "\n")
	for _, fault := range clientFaults {
		if strings.HasPrefix(text, fault) {
			level = slog.LevelDebug
			break
		}
	}
	slog.New(l.handler).Log(context.Background(), level, text)
	return len(line), nil
}
