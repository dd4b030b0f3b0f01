package proxytest

import (
	"bytes"
	"sync"
)

// A Log keeps what is written to it, for instance the log of a Router, and can
// be read at the same time. Its zero value is empty and ready to use.
type Log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write appends p.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// String returns everything that was written so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
