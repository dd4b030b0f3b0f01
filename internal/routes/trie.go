package routes

import (
	"hash/maphash"
	"slices"
)

// Hot path: get hashes once, follows at most a few pointers that stay in the processor's caches, and usually reads one
// cache line of one leaf. It allocates nothing.

// The shape of a trie. A branch takes fanBits of the hash; leaves are wide, so that a million keys are three branches
// deep; slots hold 5/8 of their number at most, so that a look-up meets an end soon.
const (
	fanBits   = 5
	fan       = 1 << fanBits
	maxLeaf   = 128
	maxBranch = 8 // the branches on a way down; below them a leaf grows without bound
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

// A node is a branch, or a leaf, which is a hash table with linear probing. The zero value is an empty leaf.
type node[T any] struct {
	below *[fan]node[T] // nil in a leaf
	slots []slot[T]     // none, or a power of two, at least one of them free
	used  int           // slots with a key
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
	if len(n.slots) == 0 {
		return val
	}
	return n.find(h, key).val
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

// each calls f for each key and value, in no order.
func (t *trie[T]) each(f func(key string, val T)) { t.root.each(f) }

func (t *trie[T]) pair(key string, val T) pair[T] {
	return pair[T]{maphash.String(t.seed, key), key, val}
}

func (t *trie[T]) add(n node[T], depth int, p pair[T]) node[T] {
	if n.below != nil {
		below := *n.below
		below[p.digit(depth)] = t.add(below[p.digit(depth)], depth+1, p)
		return node[T]{below: &below}
	}
	if !n.holds(p) && !fits(n.used+1, len(n.slots)) {
		return build(append(t.pairs(n), p), depth)
	}
	n.slots = slices.Clone(n.slots)
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
	n.each(func(key string, val T) { pairs = append(pairs, t.pair(key, val)) })
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
	size := 2
	for !fits(len(pairs), size) {
		size *= 2
	}
	n := node[T]{slots: make([]slot[T], size)}
	for _, p := range pairs {
		n.put(p)
	}
	return n
}

// fits reports whether used of so many slots are few enough.
func fits(used, slots int) bool { return used*8 <= slots*5 }

func (n *node[T]) empty() bool { return n.below == nil && len(n.slots) == 0 }

// holds reports whether a leaf has the pair's key.
func (n *node[T]) holds(p pair[T]) bool { return len(n.slots) > 0 && n.find(p.hash, p.key).key != "" }

// find returns the slot of a key in a leaf with slots, or the free one where it would be.
func (n *node[T]) find(h uint64, key string) *slot[T] {
	mask := uint64(len(n.slots) - 1)
	for i := h >> (fanBits * maxBranch); ; i++ {
		if s := &n.slots[i&mask]; s.key == "" || s.is(key) {
			return s
		}
	}
}

// put writes a pair into a leaf that it fits and that nobody else has seen yet.
func (n *node[T]) put(p pair[T]) {
	s := n.find(p.hash, p.key)
	if s.key == "" {
		n.used++
	}
	s.key, s.val = p.key, p.val
	copy(s.near[:], p.key)
}

func (n *node[T]) each(f func(key string, val T)) {
	if n.below != nil {
		for i := range n.below {
			n.below[i].each(f)
		}
	}
	for i := range n.slots {
		if s := &n.slots[i]; s.key != "" {
			f(s.key, s.val)
		}
	}
}

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
