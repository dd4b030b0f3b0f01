package routes

import (
	"hash/maphash"
	"math/bits"
	"slices"
)

// Hot path: get hashes once, follows a few pointers that stay in the processor's caches, and usually reads one word of
// tags and one slot of a leaf, or the tags alone if the key is not there. It allocates nothing.

// The shape of a trie. Leaves are wide, so that a million keys are three branches deep.
const (
	fanBits   = 5 // the bits of a hash that a branch takes
	fan       = 1 << fanBits
	maxLeaf   = 112
	maxBranch = 8 // the branches on a way down; below them a leaf grows without bound
	width     = 8 // the slots of a group
	maxNear   = 32
)

// A trie maps keys, which are not empty, to values. It never changes: with and without return another that shares all
// but one way down with the old one. The zero value is empty.
//
// The hash has a seed of its own, so that nobody outside can choose keys that collide.
type trie[T any] struct {
	seed maphash.Seed // set when root is not empty
	root node[T]
}

// A node is a branch, or a leaf, which is a hash table. The zero value is an empty leaf.
type node[T any] struct {
	below  *[fan]node[T] // nil in a leaf
	groups []group[T]    // none, or a power of two
	used   int           // slots with a key
}

// A group is a run of slots that are looked at together. A key is in the group where its hash leads, or in the next
// ones if that one was full. Slots are taken from the first on.
type group[T any] struct {
	tags  uint64 // a byte of each slot's hash, never 0; 0 for a free slot
	slots [width]slot[T]
}

// A slot fits a cache line for a small T: near repeats a key that is short enough, to save the way to the key's bytes.
type slot[T any] struct {
	key  string
	val  T
	near [maxNear]byte
}

// A pair is a key and its value on the way into a trie.
type pair[T any] struct {
	hash uint64
	key  string
	val  T
}

// newTrie returns the trie of a map.
func newTrie[T any](m map[string]T) trie[T] {
	t := trie[T]{seed: maphash.MakeSeed()}
	pairs := make([]pair[T], 0, len(m))
	for key, val := range m {
		pairs = append(pairs, t.pair(key, val))
	}
	t.root = build(pairs, 0)
	return t
}

func (t *trie[T]) empty() bool { return t.root.empty() }

// get returns the value of a key, the zero value if there is none.
func (t *trie[T]) get(key string) (val T) {
	n := &t.root
	if n.empty() {
		return val
	}
	h := maphash.String(t.seed, key)
	for digits := h; n.below != nil; digits >>= fanBits {
		n = &n.below[digits%fan]
	}
	if s := n.find(h, key); s != nil {
		return s.val
	}
	return val
}

// with returns the trie with a new value for a key.
func (t trie[T]) with(key string, val T) trie[T] {
	if t.empty() {
		t.seed = maphash.MakeSeed()
	}
	t.root = t.add(t.root, 0, t.pair(key, val))
	return t
}

// without returns the trie without a key.
func (t trie[T]) without(key string) trie[T] {
	if !t.empty() {
		t.root = t.drop(t.root, 0, maphash.String(t.seed, key), key)
	}
	return t
}

// each calls f for each key and value, in no order, until it returns false, and reports whether it never did.
func (t *trie[T]) each(f func(key string, val T) bool) bool { return t.root.each(f) }

func (t *trie[T]) pair(key string, val T) pair[T] {
	return pair[T]{maphash.String(t.seed, key), key, val}
}

func (t *trie[T]) add(n node[T], depth int, p pair[T]) node[T] {
	if n.below != nil {
		below := *n.below
		below[p.digit(depth)] = t.add(below[p.digit(depth)], depth+1, p)
		return node[T]{below: &below}
	}
	if n.find(p.hash, p.key) == nil && !fits(n.used+1, len(n.groups)) {
		return build(append(t.pairs(n), p), depth)
	}
	n.groups = slices.Clone(n.groups)
	n.put(p)
	return n
}

func (t *trie[T]) drop(n node[T], depth int, h uint64, key string) node[T] {
	if n.below != nil {
		below := *n.below
		i := digit(h, depth)
		below[i] = t.drop(below[i], depth+1, h, key)
		if !slices.ContainsFunc(below[:], func(n node[T]) bool { return !n.empty() }) {
			return node[T]{}
		}
		return node[T]{below: &below}
	}
	pairs := slices.DeleteFunc(t.pairs(n), func(p pair[T]) bool { return p.key == key })
	return build(pairs, depth)
}

// pairs returns what is in a leaf.
func (t *trie[T]) pairs(n node[T]) []pair[T] {
	pairs := make([]pair[T], 0, n.used+1)
	n.each(func(key string, val T) bool {
		pairs = append(pairs, t.pair(key, val))
		return true
	})
	return pairs
}

// build returns the node at depth of pairs with different keys.
func build[T any](pairs []pair[T], depth int) node[T] {
	if len(pairs) <= maxLeaf || depth == maxBranch {
		return buildLeaf(pairs)
	}
	var parts [fan][]pair[T]
	for _, p := range pairs {
		parts[p.digit(depth)] = append(parts[p.digit(depth)], p)
	}
	n := node[T]{below: new([fan]node[T])}
	for i, part := range parts {
		n.below[i] = build(part, depth+1)
	}
	return n
}

func buildLeaf[T any](pairs []pair[T]) node[T] {
	if len(pairs) == 0 {
		return node[T]{}
	}
	size := 1
	for !fits(len(pairs), size) {
		size *= 2
	}
	n := node[T]{groups: make([]group[T], size)}
	for _, p := range pairs {
		n.put(p)
	}
	return n
}

// fits reports whether so many keys leave so many groups an eighth of their slots, so that searches end soon.
func fits(used, groups int) bool { return used <= groups*(width-1) }

func (n *node[T]) empty() bool { return n.below == nil && len(n.groups) == 0 }

// find returns the slot of a key in a leaf, nil if it is not there.
func (n *node[T]) find(h uint64, key string) *slot[T] {
	mask := uint64(len(n.groups) - 1)
	for i := first(h); len(n.groups) > 0; i++ {
		g := &n.groups[i&mask]
		for m := zeros(g.tags ^ ones*tag(h)); m != 0; m &= m - 1 {
			if s := &g.slots[bits.TrailingZeros64(m)/8]; s.is(key) {
				return s
			}
		}
		if g.used() < width {
			return nil
		}
	}
	return nil
}

// put writes a pair into a leaf that it fits and that nobody else has seen yet.
func (n *node[T]) put(p pair[T]) {
	if s := n.find(p.hash, p.key); s != nil {
		s.val = p.val
		return
	}
	i, mask := first(p.hash), uint64(len(n.groups)-1)
	for n.groups[i&mask].used() == width {
		i++
	}
	g := &n.groups[i&mask]
	s := &g.slots[g.used()]
	g.tags |= tag(p.hash) << (8 * g.used())
	s.key, s.val = p.key, p.val
	copy(s.near[:], p.key)
	n.used++
}

func (n *node[T]) each(f func(key string, val T) bool) bool {
	if n.below != nil {
		for i := range n.below {
			if !n.below[i].each(f) {
				return false
			}
		}
	}
	for i := range n.groups {
		g := &n.groups[i]
		for j := range g.used() {
			if !f(g.slots[j].key, g.slots[j].val) {
				return false
			}
		}
	}
	return true
}

// used returns the number of slots with a key: the bytes of tags up to the last that is not 0.
func (g *group[T]) used() int { return (bits.Len64(g.tags) + 7) / 8 }

func (s *slot[T]) is(key string) bool {
	if len(key) != len(s.key) {
		return false
	}
	if len(key) <= maxNear {
		return string(s.near[:len(key)]) == key
	}
	return s.key == key
}

func (p *pair[T]) digit(depth int) uint64 { return digit(p.hash, depth) }

// digit returns the place below a branch where a hash leads.
func digit(h uint64, depth int) uint64 { return h >> (fanBits * depth) % fan }

// first returns the group where a hash leads, modulo their number.
func first(h uint64) uint64 { return h >> (fanBits * maxBranch) }

// tag returns a byte of a hash that is not 0 and that says nothing about the way to the group.
func tag(h uint64) uint64 { return h>>56 | 1 }

// ones has a 1 in each byte.
const ones = 0x0101010101010101

// zeros returns a word whose lowest bit marks the first byte of x that is 0; marks above it may be false.
func zeros(x uint64) uint64 { return (x - ones) &^ x & (ones << 7) }
