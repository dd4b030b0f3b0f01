package routes

import (
	"hash/maphash"

	"github.com/hostproxy/hostproxy/internal/yield"
)

// filled is how many places of a group the builder fills in a leaf: the others
// are for later sites.
const filled = 6

// A builder makes a trie of many sites at once.
type builder[V any] struct {
	seed  maphash.Seed
	skip  int
	sites []site[V]
	twice [][2]*Route[V] // pairs of routes without a path for the same host, the first one first
	turn  yield.Turn
}

// An item is a site that is being put into a trie. It has no pointer, so a
// million of them cost the garbage collector nothing.
type item struct {
	hash uint64
	at   int32 // position in the builder's sites
}

// trie returns the trie of the sites. If two sites have the same key, which
// happens only to sites without paths, it takes the first.
func (b *builder[V]) trie() trie[V] {
	b.seed = maphash.MakeSeed()
	return trie[V]{seed: b.seed, skip: b.skip, root: b.node(0)}
}

// node returns a node of the sites, at that depth.
func (b *builder[V]) node(depth int) node[V] {
	return b.build(b.items(), make([]item, len(b.sites)), depth)
}

func (b *builder[V]) items() []item {
	items := make([]item, len(b.sites))
	for i := range b.sites {
		b.turn.Step()
		items[i] = item{maphash.String(b.seed, b.sites[i].host()[b.skip:]), int32(i)}
	}
	return items
}

// build returns a node of some items, at that depth. It changes items, and uses
// spare, which has the same length, as memory.
func (b *builder[V]) build(items, spare []item, depth int) node[V] {
	if len(items) <= maxLeaf || depth == maxBranch {
		return b.leaf(items)
	}
	var ends [fan]int
	for i := range items {
		b.turn.Step()
		ends[digit(items[i].hash, depth)]++
	}
	for i, sum := 0, 0; i < fan; i++ {
		ends[i], sum = sum, sum+ends[i]
	}
	for i := range items { // stable, so that the first of two equal ones stays first
		b.turn.Step()
		d := digit(items[i].hash, depth)
		spare[ends[d]] = items[i]
		ends[d]++
	}
	n := node[V]{below: new([fan]node[V])}
	start := 0
	for i, end := range ends {
		n.below[i] = b.build(spare[start:end], items[start:end], depth+1)
		start = end
	}
	return n
}

func (b *builder[V]) leaf(items []item) node[V] {
	if len(items) == 0 {
		return node[V]{}
	}
	n := node[V]{groups: make([]group[V], (len(items)+filled-1)/filled)}
	for _, it := range items {
		b.turn.Step()
		s := b.sites[it.at]
		key := s.host()[b.skip:]
		if g, i := n.find(it.hash, key, b.skip); g != nil {
			b.twice = append(b.twice, [2]*Route[V]{g.routes[i], s.route})
			continue
		}
		n.put(it.hash, s, key)
	}
	return n
}
