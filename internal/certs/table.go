package certs

import (
	"hash/maphash"
	"math/bits"
)

// batch is how many hosts are read or changed at a time under the manager's
// lock, so that handshakes do not wait long.
const batch = 256

// page is how many elements of a list are allocated at once.
const page = 256

// A table holds the hosts of a Manager, by name, and in a list that can be
// walked in batches. It is used under the manager's lock.
//
// It is a linear hash table: each added host splits one chain in two, so every
// addition takes about the same time. A million hosts need 4 bytes each for the
// heads of chains, without pointers that the garbage collector must follow.
type table struct {
	seed  maphash.Seed
	hosts pages[*host]
	heads pages[int32] // positions, from 1, of the first hosts of chains; 0 for none
}

func newTable() table { return table{seed: maphash.MakeSeed()} }

func (t *table) len() int { return t.hosts.len }

// at returns the host at a position in the list.
func (t *table) at(place int) *host { return *t.hosts.at(place) }

// get returns the host with that name, nil if there is none. It does not
// allocate.
func (t *table) get(name string) *host { return lookUp(t, maphash.String(t.seed, name), name) }

// getBytes is get for a name in bytes.
func (t *table) getBytes(name []byte) *host { return lookUp(t, maphash.Bytes(t.seed, name), name) }

func lookUp[K string | []byte](t *table, full uint64, name K) *host {
	if t.len() == 0 {
		return nil
	}
	hash := uint32(full)
	for at := *t.head(hash); at != 0; {
		h := t.at(int(at - 1))
		if h.hash == hash && h.name == string(name) {
			return h
		}
		at = h.behind
	}
	return nil
}

func (t *table) add(h *host) {
	h.hash = uint32(maphash.String(t.seed, h.name))
	t.hosts.push(h)
	t.grow()
	t.link(h, int32(t.len()))
}

func (t *table) drop(h *host) {
	ref := t.ref(h)
	at := *ref
	*ref = h.behind
	if last := t.at(t.len() - 1); last != h {
		*t.ref(last) = at
		*t.hosts.at(int(at - 1)) = last
	}
	t.hosts.pop()
}

// link adds h, which is at position at in the list (from 1), to its chain.
func (t *table) link(h *host, at int32) {
	head := t.head(h.hash)
	h.behind, *head = *head, at
}

// ref returns the reference to h in its chain.
func (t *table) ref(h *host) *int32 {
	ref := t.head(h.hash)
	for {
		g := t.at(int(*ref - 1))
		if g == h {
			return ref
		}
		ref = &g.behind
	}
}

// head returns the head of the chain for a hash. Chains from the last power of
// two on were made by splitting.
func (t *table) head(hash uint32) *int32 {
	n := t.heads.len
	mask := powerOfTwo(n) - 1
	i := int(hash) & (mask<<1 | 1)
	if i >= n {
		i &= mask
	}
	return t.heads.at(i)
}

// grow adds a chain if there are more hosts than chains, and moves hosts there
// from the chain that is split.
func (t *table) grow() {
	n := t.heads.len
	if n >= t.hosts.len {
		return
	}
	t.heads.push(0)
	if n == 0 {
		return
	}
	head := t.heads.at(n - powerOfTwo(n))
	at := *head
	*head = 0
	for at != 0 {
		h, place := t.at(int(at-1)), at
		at = h.behind
		t.link(h, place)
	}
}

// each calls f for all hosts, holding the lock for a batch at a time. A host
// that is added or removed meanwhile may be skipped, or seen twice.
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
	for i := at; i < min(at+batch, m.table.len()); i++ {
		f(m.table.at(i))
	}
	return at+batch < m.table.len()
}

// names returns the names of all hosts.
func (m *Manager) names() []string {
	m.mu.RLock()
	names := make([]string, 0, m.table.len())
	m.mu.RUnlock()
	m.each(func(h *host) { names = append(names, h.name) })
	return names
}

// namesBelow returns the names to check again when a wildcard changes, or all
// of them for "*"; see zones.
func (m *Manager) namesBelow(wild string) []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.below.names(wild)
}

// has reports whether a host is in the table.
func (m *Manager) has(name string) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.table.get(name) != nil
}

// powerOfTwo returns the largest power of two that is at most n. n is positive.
func powerOfTwo(n int) int { return 1 << (bits.Len(uint(n)) - 1) }

// pages is a list that grows by a page at a time and never moves elements. The
// zero value is empty.
type pages[T any] struct {
	all []*[page]T
	len int
}

func (p *pages[T]) at(i int) *T { return &p.all[i/page][i%page] }

func (p *pages[T]) push(v T) {
	if p.len == len(p.all)*page {
		p.all = append(p.all, new([page]T))
	}
	p.len++
	*p.at(p.len - 1) = v
}

func (p *pages[T]) pop() {
	p.len--
	var zero T
	*p.at(p.len) = zero
	if whole := (p.len + page - 1) / page; whole+1 < len(p.all) { // keep one spare page
		p.all[len(p.all)-1] = nil
		p.all = p.all[:len(p.all)-1]
	}
}
