package certs

// A Table is a table of inactive hosts.
type Table struct{ table }

// NewTable returns an empty Table.
func NewTable() *Table { return &Table{newTable()} }

// Add adds a host.
func (t *Table) Add(name string) { t.add(&host{name: name}) }

// Drop removes a host, and reports whether it was there.
func (t *Table) Drop(name string) bool {
	h := t.get(name)
	if h != nil {
		t.drop(h)
	}
	return h != nil
}

// Has reports whether a host is there, looked up by string and by bytes.
func (t *Table) Has(name string) (byString, byBytes bool) {
	h, g := t.get(name), t.getBytes([]byte(name))
	return h != nil && h.name == name, g != nil && g == h
}

// Walk returns the names in the order of the list.
func (t *Table) Walk() []string {
	var names []string
	for i := range t.len() {
		if h := t.table.at(i); *t.ref(h) == int32(i+1) {
			names = append(names, h.name)
		}
	}
	return names
}

// A Queue is a queue of hosts that never starts.
type Queue struct{ *queue }

// NewQueue returns an empty Queue.
func NewQueue() Queue { return Queue{newQueue(1, nil)} }

// Hosts returns new hosts.
func Hosts(names []string) []*host {
	all := make([]*host, len(names))
	for i, name := range names {
		all[i] = &host{name: name}
	}
	return all
}

// Put puts new hosts into the queue.
func (q Queue) Put(hosts []*host) {
	for _, h := range hosts {
		q.put(h, job{urgency: wanted})
	}
}
