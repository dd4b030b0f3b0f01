// Package service handles a process as a service: its inherited sockets, its
// messages to the service manager, and the process that takes over from it.
//
//   - service.go, inherit.go, sockets.go: inherited sockets, from the
//     environment to listeners
//   - gate.go: no connection is accepted before the old process allows it
//   - handover.go, child.go: handing over to a new process
//   - turn.go: when a server may hand over
//   - hangup.go: handing over at SIGHUP
//   - notify.go, notices.go, clock_linux.go, clock_other.go: messages to the
//     service manager
//   - fd_unix.go, fd_other.go: file descriptors
package service

import "os"

// The environment variables that describe the inherited sockets
// (sd_listen_fds(3)).
const (
	envCount = "LISTEN_FDS"
	envPID   = "LISTEN_PID"
	envNames = "LISTEN_FDNAMES"

	// envParent replaces envPID in a process that HandOver has started: the new
	// process's own ID is not known before it runs, so this is the ID of the
	// process that started it.
	envParent = "HOSTPROXY_HANDOVER"
)

// firstFD is the first inherited file descriptor.
const firstFD = 3

// unset removes the variables, so that no child process uses the sockets.
func unset() {
	for _, name := range []string{envCount, envPID, envNames, envParent} {
		os.Unsetenv(name)
	}
}
