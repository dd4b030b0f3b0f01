package balance

import (
	"container/heap"
	"math/rand/v2"
)

// maxCycle limits the turns of a cycle, unless there are more candidates.
const maxCycle = 1 << 14

// next takes the candidate whose turn it is.
//
// One counter for all makes cycles exact. It costs no more than the two
// counters that an exchange writes anyway, and has its own cache line.
func (s *Set) next(now instant, tried []int) int {
	n := uint64(len(s.turns))
	if i := int(s.turns[(s.turn.Add(1)-1)%n]); s.takes(i, now, tried) {
		return i
	}
	// Skipped turns are taken from the counter together with the used one, so
	// that the turn after a gap is used once, like any other. The look ahead is
	// limited, since nearly all turns of a cycle may belong to one candidate.
	look := min(n, 2*uint64(len(s.live))+draws)
	for {
		turn := s.turn.Load()
		i, skip := -1, uint64(0)
		for ; skip < look; skip++ {
			if j := int(s.turns[(turn+skip)%n]); s.takes(j, now, tried) {
				i = j
				break
			}
		}
		if i < 0 {
			return s.drawOfFew(now, tried, -1)
		}
		if s.turn.CompareAndSwap(turn, turn+skip+1) {
			return i
		}
	}
}

// newTurns computes the cycle, and begins at a random place in it, so that sets
// of the same list, here and in other processes, do not all begin with the same
// candidate.
func (s *Set) newTurns() {
	s.turns = newTurns(s.weights())
	s.turn.Store(rand.Uint64N(uint64(len(s.turns))))
}

// newTurns returns a cycle in which candidate i has weights[i] turns, or in
// proportion if those were too many. In the first t turns, for any t, each
// candidate has less than one turn more or less than its share.
//
// This is the solution of the chairman assignment problem (Tijdeman 1980): a
// turn goes to the candidate whose next turn is due first, among those for
// which it is not too early.
func newTurns(weights []uint64) []int32 {
	weights = cycleWeights(weights)
	var total uint64
	for _, w := range weights {
		total += w
	}
	// After c turns of a candidate, its next one is too early before (c +
	// 1/parts) total/weight, and due at (c + 1 - 1/parts) total/weight.
	parts := max(1, 2*uint64(len(weights))-2)
	had := make([]uint64, len(weights))
	from := make([][]int32, total+1) // candidates that enter the queue for turn t; the first is 1
	enter := func(i int32, earliest uint64) {
		w := parts * weights[i]
		if t := max(earliest, ((had[i]*parts+1)*total+w-1)/w); t <= total {
			from[t] = append(from[t], i)
		}
	}
	for i := range weights {
		enter(int32(i), 1)
	}
	turns := make([]int32, 0, total)
	var q queue
	for t := uint64(1); t <= total; t++ {
		for _, i := range from[t] {
			heap.Push(&q, due{(had[i]+1)*parts - 1, weights[i], i})
		}
		i := heap.Pop(&q).(due).who
		turns = append(turns, i)
		had[i]++
		enter(i, t+1)
	}
	return turns
}

// cycleWeights returns the smallest weights of the same proportions, rounded
// where the cycle would be too long.
func cycleWeights(weights []uint64) []uint64 {
	var sum, common uint64
	for _, w := range weights {
		sum += w
	}
	small := make([]uint64, len(weights))
	for i, w := range weights {
		small[i] = w
		if sum > maxCycle {
			small[i] = max(1, (w*maxCycle+sum/2)/sum)
		}
		common = gcd(small[i], common)
	}
	for i := range small {
		small[i] /= common
	}
	return small
}

// A due is a candidate's next turn, which is due at time/weight.
type due struct {
	time, weight uint64
	who          int32
}

// A queue is a heap of turns with the first due on top.
type queue []due

func (q queue) Len() int { return len(q) }

func (q queue) Less(i, j int) bool {
	a, b := q[i].time*q[j].weight, q[j].time*q[i].weight
	return a < b || a == b && q[i].who < q[j].who
}

func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }

func (q *queue) Push(x any) { *q = append(*q, x.(due)) }

func (q *queue) Pop() any {
	last := len(*q) - 1
	x := (*q)[last]
	*q = (*q)[:last]
	return x
}
