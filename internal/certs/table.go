package certs

import "iter"

// batch is how many hosts are looked at, or changed, under the manager's lock at a time: handshakes wait for no more.
const batch = 256

// A table is the hosts of a Manager, by name, and in a list that can be walked a batch at a time. It is used under the
// manager's lock.
type table struct {
	by   map[string]*host
	list []*host
}

func newTable() table { return table{by: make(map[string]*host)} }

func (t *table) get(name string) *host { return t.by[name] }

func (t *table) add(h *host) {
	h.at = int32(len(t.list))
	t.by[h.name] = h
	t.list = append(t.list, h)
}

func (t *table) drop(h *host) {
	delete(t.by, h.name)
	last := len(t.list) - 1
	t.list[h.at] = t.list[last]
	t.list[h.at].at = h.at
	t.list[last] = nil
	t.list = t.list[:last]
}

// each yields all hosts, with the lock held for a batch at a time: f is called under it. What comes or goes meanwhile may
// be left out, or come twice.
func (m *Manager) each(f func(*host)) {
	for at := 0; ; at += batch {
		if !m.part(at, f) {
			return
		}
	}
}

// part calls f for a batch of hosts, and reports whether there are more.
func (m *Manager) part(at int, f func(*host)) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, h := range m.table.list[min(at, len(m.table.list)):min(at+batch, len(m.table.list))] {
		f(h)
	}
	return at+batch < len(m.table.list)
}

// names yields the names of all hosts.
func (m *Manager) names() iter.Seq[string] {
	return func(yield func(string) bool) {
		var names []string
		m.each(func(h *host) { names = append(names, h.name) })
		for _, name := range names {
			if !yield(name) {
				return
			}
		}
	}
}
