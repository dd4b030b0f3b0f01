package service

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
)

// maxSockets limits the inherited sockets; systemd has a lower limit by
// default.
const maxSockets = 1024

// Announced reports whether the process has inherited sockets and has not
// called Inherit.
func Announced() bool {
	pid := os.Getenv(envPID)
	return os.Getenv(envCount) != "" && (pid == "" || pid == strconv.Itoa(os.Getpid()))
}

// Inherit returns the sockets that this process has inherited, and removes the
// variables that describe them from the environment. After an error all file
// descriptors stay open.
func Inherit() (*Sockets, error) {
	count, pid, names, parent := os.Getenv(envCount), os.Getenv(envPID), os.Getenv(envNames), os.Getenv(envParent)
	defer unset()
	s := new(Sockets)
	switch {
	case (count == "" || count == "0") && pid == "" && parent == "":
		return s, nil
	case parent != "" && parent != strconv.Itoa(os.Getppid()):
		s.absent = fmt.Sprintf("%s is %q, but this process was started by %d: its sockets are for another process", envParent, parent, os.Getppid())
		return s, nil
	case parent == "" && pid != strconv.Itoa(os.Getpid()):
		if _, err := strconv.ParseUint(pid, 10, 32); err != nil {
			return nil, fmt.Errorf("%s is %q: want the number of a process, such as %d", envPID, pid, os.Getpid())
		}
		s.absent = fmt.Sprintf("%s is %s, but this process is %d: its sockets are for another process. "+
			"If a shell starts the program, let it do so with exec", envPID, pid, os.Getpid())
		return s, nil
	}
	all, err := parse(count, names)
	if err != nil {
		return nil, err
	}
	s.inherited = all
	if parent != "" {
		s.gate, err = openGate(firstFD + len(all))
	}
	for _, k := range all {
		if err == nil {
			k.fault, err = inspect(k.fd)
		}
		if err != nil {
			return nil, fmt.Errorf("%s is %s: file descriptor %d, %q: %w", envCount, count, k.fd, k.name, err)
		}
	}
	for _, k := range all {
		closeOnExec(k.fd)
	}
	if s.gate != nil {
		s.gate.start(s)
	}
	return s, nil
}

// parse returns the sockets that the variables describe.
func parse(count, names string) ([]*inherited, error) {
	n, err := strconv.Atoi(count)
	if err != nil || n < 1 || n > maxSockets {
		return nil, fmt.Errorf("%s is %q: want a number from 1 to %d", envCount, count, maxSockets)
	}
	words := strings.Split(names, ":")
	if names == "" { // the default of sd_listen_fds_with_names(3)
		words = strings.Split(strings.Repeat(":unknown", n)[1:], ":")
	}
	if len(words) != n {
		return nil, fmt.Errorf("%s is %q, which has %d names: want as many as %s says, %d", envNames, names, len(words), envCount, n)
	}
	all := make([]*inherited, n)
	for i, name := range words {
		all[i] = &inherited{fd: firstFD + i, name: name}
	}
	return all, nil
}

// An inherited is an inherited file descriptor.
type inherited struct {
	fd    int
	name  string
	fault string // why it cannot be used as a listener; "" if it can
	taken bool
}

// listener returns k as a listener, which has a copy of the file descriptor,
// and closes the original.
func (k *inherited) listener() (net.Listener, error) {
	if k.fault != "" {
		return nil, fmt.Errorf("the inherited socket %q (file descriptor %d) is %s", k.name, k.fd, k.fault)
	}
	f := os.NewFile(uintptr(k.fd), k.name)
	ln, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("the inherited socket %q (file descriptor %d): %w", k.name, k.fd, err)
	}
	f.Close()
	return ln, nil
}
