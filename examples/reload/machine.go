package reload

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// A machine checks what a proxy would open on this machine when it starts,
// without opening it.
type machine struct {
	*plan
	old    *plan // of the running proxy; nil if none is known
	faults Faults
	notes  Faults // possible faults
}

// machine returns the faults of n on this machine, and notes about it as lines
// of text.
func (n *plan) machine(old *plan) (notes string, err error) {
	m := &machine{plan: n, old: old}
	if n.Log.Output != "" {
		m.add(&m.faults, m.file(n.path(n.Log.Output)), "log", "output")
	}
	if n.TLS.Storage != "" {
		m.add(&m.faults, m.storage(n.path(n.TLS.Storage)), "tls", "storage")
	}
	for i, l := range n.listeners() {
		at := []string{"listeners", strconv.Itoa(i), "addr"}
		if path, ok := strings.CutPrefix(l.Addr, "unix:"); ok {
			m.add(&m.faults, m.socket(path), at...)
		} else if l.Addr != "" {
			m.address(l.Addr, at...)
		}
	}
	for _, f := range m.notes {
		notes += "note: " + f.Error() + "\n"
	}
	return notes, m.faults.err()
}

// add adds a fault to all, unless the rule is "".
func (m *machine) add(all *Faults, rule string, at ...string) {
	if rule != "" {
		f := m.locate(at...)
		f.Rule = rule
		*all = append(*all, f)
	}
}

// file returns the rule that a file to write breaks, or "".
func (m *machine) file(path string) string {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return m.directory(filepath.Dir(path))
	case err != nil:
		return permitted(err).Error()
	case info.IsDir():
		return fmt.Sprintf("%s is a directory: want a file that this process may write", quoted(path))
	}
	return writeRule(path)
}

// directory returns the rule that a directory for new files breaks, or "".
func (m *machine) directory(path string) string {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Sprintf("the directory %s does not exist: create it, or correct the name", quoted(path))
	case err != nil:
		return permitted(err).Error()
	case !info.IsDir():
		return fmt.Sprintf("%s is no directory: want one", quoted(path))
	}
	return writeRule(path)
}

// storage is like directory, but the directory and its parents may be missing:
// the proxy creates them.
func (m *machine) storage(path string) string {
	for {
		_, err := os.Stat(path)
		if above := filepath.Dir(path); errors.Is(err, fs.ErrNotExist) && above != path {
			path = above
			continue
		}
		return m.directory(path)
	}
}

// socket returns the rule that the path of a unix socket breaks, or "".
func (m *machine) socket(path string) string {
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() != fs.ModeSocket {
		return fmt.Sprintf("%s is there, and is no socket: remove it, or use another path", quoted(path))
	}
	return m.directory(filepath.Dir(path))
}

// writeRule returns the rule that path breaks if this process may not write
// there, or "".
func writeRule(path string) string {
	if err := writable(path); err != nil {
		return fmt.Sprintf("%s: %v: let the user of this process write there (chmod, chown)", quoted(path), err)
	}
	return ""
}

// address checks the address of a TCP listener.
func (m *machine) address(addr string, at ...string) {
	err := bindable(addr)
	switch {
	case err == nil, errors.Is(err, syscall.EADDRINUSE) && m.holds(addr):
	case errors.Is(err, syscall.EADDRINUSE) && m.old == nil:
		m.add(&m.notes, quoted(addr)+" is in use. That is right if the proxy that runs with this file uses it; -against tells", at...)
	case errors.Is(err, syscall.EADDRINUSE):
		m.add(&m.faults, quoted(addr)+" is in use, and the configuration to compare with does not have this port: stop the other program, or use another port", at...)
	case errors.Is(err, os.ErrPermission):
		m.add(&m.notes, quoted(addr)+" is not allowed for this user: a port below 1024 needs a capability: sudo setcap cap_net_bind_service=+ep on this binary", at...)
	default:
		m.add(&m.faults, fmt.Sprintf("%s: %v: want an address of this machine, or :port for all of them", quoted(addr), err), at...)
	}
}

// holds reports whether the running proxy has the port of addr. A restart frees
// it.
func (m *machine) holds(addr string) bool {
	return m.old != nil && slices.ContainsFunc(m.old.listeners(), func(l Listener) bool {
		return !strings.HasPrefix(l.Addr, "unix:") && port(l.Addr) == port(addr)
	})
}

func port(addr string) string { return addr[strings.LastIndexByte(addr, ':')+1:] }
