// Package service is a process among others: the sockets that it has inherited,
// what it tells the service manager, and the process that takes over from it.
//
//   - service.go, inherit.go, sockets.go: inherited sockets, from the
//     environment to listeners
//   - gate.go: they accept nothing before the process that hands them over lets
//     them
//   - handover.go, child.go: that process, and what it starts
//   - turn.go: when a server may hand over
//   - notify.go, notices.go, clock_linux.go, clock_other.go: what the service
//     manager is told
//   - fd_unix.go, fd_other.go: file descriptors
package service

import "os"

// The variables of the environment that say which sockets a process inherits
// (sd_listen_fds(3)).
const (
	envCount = "LISTEN_FDS"
	envPID   = "LISTEN_PID"
	envNames = "LISTEN_FDNAMES"

	// envParent stands in for envPID in a process that HandOver has started:
	// its own number is not known before it runs, so that this is the number of
	// the process that started it.
	envParent = "HOSTPROXY_HANDOVER"
)

// firstFD is the first inherited file descriptor.
const firstFD = 3

// unset removes the variables, so that no child takes the sockets for its own.
func unset() {
	for _, name := range []string{envCount, envPID, envNames, envParent} {
		os.Unsetenv(name)
	}
}
