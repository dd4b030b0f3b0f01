package routes

import "hash/maphash"

// filled is how many places of a group are taken in a leaf that was built: the others are for sites to come.
const filled = 6

// A builder makes tries out of many sites at a time.
type builder[V any] struct {
	skip  int
	twice [][2]*Route[V] // routes without a path that have the same host, the first of them first
}

// trie returns the trie of some sites. Of two that have the same key, which have no paths, it takes the first.
func (b *builder[V]) trie(sites []site[V]) trie[V] {
	t := trie[V]{seed: maphash.MakeSeed(), skip: b.skip}
	items := make([]item[V], len(sites))
	for i, s := range sites {
		items[i] = t.item(s)
	}
	t.root = b.build(items, make([]item[V], len(items)), 0)
	return t
}

// build returns the node at depth of some items. It uses spare, which is as long, and changes items.
func (b *builder[V]) build(items, spare []item[V], depth int) node[V] {
	if len(items) <= maxLeaf || depth == maxBranch {
		return b.leaf(items)
	}
	var ends [fan]int
	for i := range items {
		ends[digit(items[i].hash, depth)]++
	}
	for i, sum := 0, 0; i < fan; i++ {
		ends[i], sum = sum, sum+ends[i]
	}
	for i := range items { // in order, so that the first of two stays the first
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

func (b *builder[V]) leaf(items []item[V]) node[V] {
	if len(items) == 0 {
		return node[V]{}
	}
	n := node[V]{groups: make([]group[V], (len(items)+filled-1)/filled)}
	for _, it := range items {
		key := it.site.host()[b.skip:]
		if g, i := n.find(it.hash, key, b.skip); g != nil {
			b.twice = append(b.twice, [2]*Route[V]{g.routes[i], it.site.route})
			continue
		}
		n.put(it, key)
	}
	return n
}
