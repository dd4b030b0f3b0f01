package balance

import "math/rand/v2"

// draws limits the cheap draws for one candidate. If most candidates are
// eligible the first or second draw succeeds. After the last one, a pass over
// all candidates decides.
const draws = 6

// lessBusy takes the less loaded of two drawn candidates.
func (s *Set) lessBusy(now instant, tried []int) int {
	i := s.draw(now, tried, -1)
	if i < 0 {
		return -1
	}
	j := s.draw(now, tried, i)
	if j < 0 {
		return i
	}
	if s.live[i].load(now) <= s.live[j].load(now) {
		return i
	}
	return j
}

// draw returns the position of an eligible candidate other than except, each
// with a chance in proportion to its weight, or -1 if there is none.
func (s *Set) draw(now instant, tried []int, except int) int {
	for range draws {
		if i := s.column(rand.Uint64()); i != except && s.takes(i, now, tried) {
			return i
		}
	}
	return s.drawOfFew(now, tried, except)
}

// takes reports whether the candidate at i, which was drawn, takes the
// exchange. A rising one takes only some, at random.
func (s *Set) takes(i int, now instant, tried []int) bool {
	n := s.live[i].node
	if n.full() || len(tried) > 0 && s.live[i].in(tried) {
		return false
	}
	share := n.share(now)
	return share == whole || share > rand.Uint64N(whole)
}

// drawOfFew is draw for the case that few are eligible. To take the next
// eligible one instead would favour candidates after a gap: a target that is
// down would double its neighbour's share.
func (s *Set) drawOfFew(now instant, tried []int, except int) int {
	var sum uint64
	last := -1
	for i := range s.live {
		if w := s.live[i].eligible(now, tried); w > 0 && i != except {
			sum, last = sum+w, i
		}
	}
	if last < 0 {
		return -1
	}
	r := rand.Uint64N(sum)
	for i := range s.live[:last] {
		if i == except {
			continue
		}
		w := s.live[i].eligible(now, tried)
		if r < w {
			return i
		}
		r -= w
	}
	return last // even if others became eligible or ineligible meanwhile
}

// A column of the alias method (Walker 1977, Vose 1991). All columns have the
// same chance. The part of a column below cut belongs to the candidate at its
// position, the rest to other.
type column struct {
	cut   uint32
	other int32
}

// column returns the position of the candidate that the random number r draws.
func (s *Set) column(r uint64) int {
	i := int(r >> 32 * uint64(len(s.live)) >> 32)
	if s.columns == nil {
		return i
	}
	if c := s.columns[i]; uint32(r) >= c.cut {
		return int(c.other)
	}
	return i
}

// newColumns fills each column up to the height of the average weight: a heavy
// candidate fills what a light one leaves empty.
func newColumns(weights []uint64) []column {
	n := uint64(len(weights))
	columns := make([]column, n)
	var sum uint64
	for _, w := range weights {
		sum += w
	}
	var light, heavy []int
	left := make([]uint64, n) // the rest of each weight, in units of which a column holds sum
	for i, w := range weights {
		columns[i] = column{1<<32 - 1, int32(i)}
		if left[i] = w * n; left[i] < sum {
			light = append(light, i)
		} else {
			heavy = append(heavy, i)
		}
	}
	for len(light) > 0 {
		l, h := light[len(light)-1], heavy[len(heavy)-1] // while any is light, one is heavy
		columns[l] = column{uint32(left[l] << 32 / sum), int32(h)}
		light = light[:len(light)-1]
		if left[h] -= sum - left[l]; left[h] < sum {
			heavy, light = heavy[:len(heavy)-1], append(light, h)
		}
	}
	return columns
}
