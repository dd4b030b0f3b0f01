package main

import (
	"bytes"
	"os"
	"strconv"
	"sync"
)

// beTheProgram runs the command in the arguments.
func beTheProgram() {
	if os.Getenv("LISTEN_PID") == "mine" { // a number that a service manager knows, and a test does not
		os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
	}
	main()
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
