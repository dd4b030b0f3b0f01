package routes

import (
	"hash/maphash"
	"math/bits"
	"slices"
)

// Hot path: get hashes once, and follows a few pointers that stay in the
// processor's caches. In the leaf it usually reads one word of tags and one
// key, or only the tags if the key is not there. It allocates nothing.

// The shape of a trie. Leaves are large, so that a million keys are three
// branches deep.
const (
	fanBits   = 5 // bits of the hash that a branch uses
	fan       = 1 << fanBits
	maxLeaf   = 112
	maxBranch = 8 // most branches above a leaf; a leaf below that many has no limit
	width     = 8 // sites in a group
	maxNear   = 31
)

// A trie maps keys to the sites of host patterns. A key is the host pattern
// without the first skip bytes, and is not empty. A trie never changes: with
// and without return another one, which shares all but one path with the old
// one. The zero value is empty.
//
// Each trie has a secret seed for its hash, so that a client cannot choose keys
// that collide.
type trie[V any] struct {
	seed maphash.Seed // set when root is not empty
	root node[V]
	skip int
}

// A node is a branch, or a leaf, which is a hash table. The zero value is an
// empty leaf.
type node[V any] struct {
	below  *[fan]node[V] // nil in a leaf
	groups []group[V]
	used   int // sites
}

// A group has sites that find compares together. A key is in the group of its
// hash, or in a following one if that was full. Places are filled from the
// first on.
type group[V any] struct {
	tags   uint64 // a byte of each site's hash, which is never 0; 0 marks a free place
	routes [width]*Route[V]
	paths  *[width]*segment[V] // nil while no site has paths
	near   [width]near
}

// A near key is a copy of a short key, padded with zeros. It saves the accesses
// to the route and its text. It begins with far if the key is too long.
type near [maxNear + 1]byte

const far = 0xff // occurs in no host

func (t *trie[V]) empty() bool { return t.root.empty() }

// get returns the site of a key, or an empty site.
func (t *trie[V]) get(key string) site[V] {
	n := &t.root
	if n.empty() {
		return site[V]{}
	}
	h := maphash.String(t.seed, key)
	for digits := h; n.below != nil; digits >>= fanBits {
		n = &n.below[digits%fan]
	}
	if g, i := n.find(h, key, t.skip); g != nil {
		return g.site(i)
	}
	return site[V]{}
}

// with returns the trie with s as the site of a key.
func (t trie[V]) with(key string, s site[V]) trie[V] {
	if t.empty() {
		t.seed, t.skip = maphash.MakeSeed(), len(s.host())-len(key)
	}
	t.root = t.add(t.root, 0, maphash.String(t.seed, key), key, s)
	return t
}

// without returns the trie without a key.
func (t trie[V]) without(key string) trie[V] {
	if !t.empty() {
		t.root = t.drop(t.root, 0, maphash.String(t.seed, key), key)
	}
	return t
}

// each calls f for each site, in no particular order, until f returns false. It
// reports whether f never did.
func (t *trie[V]) each(f func(s site[V]) bool) bool { return t.root.each(f) }

func (t *trie[V]) add(n node[V], depth int, h uint64, key string, s site[V]) node[V] {
	if n.below != nil {
		below := *n.below
		i := digit(h, depth)
		below[i] = t.add(below[i], depth+1, h, key, s)
		return node[V]{below: &below}
	}
	old, _ := n.find(h, key, t.skip)
	if old == nil && !n.fitsOneMore() {
		b := builder[V]{seed: t.seed, skip: t.skip, sites: append(n.sites(), s)}
		return b.node(depth)
	}
	n.groups = slices.Clone(n.groups)
	if old == nil {
		n.put(h, s, key)
		return n
	}
	g, i := n.find(h, key, t.skip)
	g.set(i, s)
	return n
}

func (t *trie[V]) drop(n node[V], depth int, h uint64, key string) node[V] {
	if n.below != nil {
		below := *n.below
		i := digit(h, depth)
		below[i] = t.drop(below[i], depth+1, h, key)
		if !slices.ContainsFunc(below[:], func(n node[V]) bool { return !n.empty() }) {
			return node[V]{}
		}
		return node[V]{below: &below}
	}
	sites := slices.DeleteFunc(n.sites(), func(s site[V]) bool { return s.is(key, t.skip) })
	b := builder[V]{seed: t.seed, skip: t.skip, sites: sites}
	return b.leaf(b.items())
}

// sites returns the sites of a leaf, with room for one more.
func (n *node[V]) sites() []site[V] {
	sites := make([]site[V], 0, n.used+1)
	n.each(func(s site[V]) bool {
		sites = append(sites, s)
		return true
	})
	return sites
}

func (n *node[V]) empty() bool { return n.below == nil && len(n.groups) == 0 }

// fitsOneMore reports whether an eighth of the places is still free after one
// more site. Free places make searches short.
func (n *node[V]) fitsOneMore() bool { return n.used < len(n.groups)*(width-1) }

// find returns the group of a key in a leaf and its place there. The group is
// nil if the key is not there.
func (n *node[V]) find(h uint64, key string, skip int) (*group[V], int) {
	if len(n.groups) == 0 {
		return nil, 0
	}
	for i := n.first(h); ; i = n.next(i) {
		g := &n.groups[i]
		for m := zeros(g.tags ^ ones*tag(h)); m != 0; m &= m - 1 {
			if j := bits.TrailingZeros64(m) / 8; g.has(j, key, skip) {
				return g, j
			}
		}
		if g.used() < width {
			return nil, 0
		}
	}
}

// put puts a site into a leaf that has room, does not have its key, and is not
// published yet.
func (n *node[V]) put(h uint64, s site[V], key string) {
	i := n.first(h)
	for n.groups[i].used() == width {
		i = n.next(i)
	}
	g := &n.groups[i]
	j := g.used()
	g.tags |= tag(h) << (8 * j)
	g.set(j, s)
	if len(key) <= maxNear {
		copy(g.near[j][:], key)
	} else {
		g.near[j][0] = far
	}
	n.used++
}

func (n *node[V]) each(f func(s site[V]) bool) bool {
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
			if !f(g.site(j)) {
				return false
			}
		}
	}
	return true
}

// first returns the group of a hash.
func (n *node[V]) first(h uint64) int {
	return int((h >> (fanBits * maxBranch) & 0xffff) * uint64(len(n.groups)) >> 16)
}

// next returns the group after i.
func (n *node[V]) next(i int) int {
	if i++; i < len(n.groups) {
		return i
	}
	return 0
}

// used returns the number of sites, which is the number of bytes in tags up to
// the last that is not 0.
func (g *group[V]) used() int { return (bits.Len64(g.tags) + 7) / 8 }

// has reports whether the site at i has that key.
func (g *group[V]) has(i int, key string, skip int) bool {
	if n := &g.near[i]; len(key) <= maxNear {
		return string(n[:len(key)]) == key && n[len(key)] == 0
	}
	s := g.site(i)
	return s.is(key, skip)
}

// site returns the site at i.
func (g *group[V]) site(i int) site[V] {
	s := site[V]{route: g.routes[i]}
	if g.paths != nil {
		s.paths = g.paths[i]
	}
	return s
}

// set makes s the site at i. It changes g, but not its old paths, which may be
// shared.
func (g *group[V]) set(i int, s site[V]) {
	g.routes[i] = s.route
	if g.paths == nil && s.paths == nil {
		return
	}
	var paths [width]*segment[V]
	if g.paths != nil {
		paths = *g.paths
	}
	paths[i] = s.paths
	g.paths = &paths
}

// digit returns the part of a hash that chooses the node below a branch at that
// depth.
func digit(h uint64, depth int) uint64 { return h >> (fanBits * depth) % fan }

// tag returns a byte of a hash, which is not 0. Its bits do not choose the leaf
// or the group.
func tag(h uint64) uint64 { return h>>56 | 1 }

// ones has a 1 in each byte.
const ones = 0x0101010101010101

// zeros returns a word whose lowest 1 marks the first byte of x that is 0.
// Higher marks may be false.
func zeros(x uint64) uint64 { return (x - ones) &^ x & (ones << 7) }
