package balance_test

import (
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/balance"
)

// slotSigma is the standard deviation of a candidate's share p of the slots: it
// has each of the 2^15 slots with chance p.
func slotSigma(p float64) float64 { return math.Sqrt(p * (1 - p) / (1 << 15)) }

// places returns the names of the candidates for many keys.
func places(t *testing.T, cs []balance.Candidate) []string {
	t.Helper()
	s := balance.NewSet(balance.Hash, cs)
	names := make([]string, picks)
	for k := range names {
		i := s.Pick(noon, key(k), nil)
		if i < 0 {
			t.Fatal("nothing picked")
		}
		names[k] = cs[i].Name
	}
	return names
}

// moved returns the share of keys that moved from one name to another, and
// fails if a move is not allowed.
func moved(t *testing.T, before, after []string, allowed func(from, to string) bool) float64 {
	t.Helper()
	n := 0
	for k := range before {
		if before[k] == after[k] {
			continue
		}
		if n++; !allowed(before[k], after[k]) {
			t.Fatalf("key %d moved from %s to %s", k, before[k], after[k])
		}
	}
	return float64(n) / float64(len(before))
}

func TestAKeyStaysWithItsCandidate(t *testing.T) {
	cs := weighted(1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
	want := places(t, cs)
	assert.Equal(t, want, places(t, cs), "in another set")

	shuffled := append([]balance.Candidate{}, cs...)
	rand.Shuffle(len(cs), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	assert.Equal(t, want, places(t, shuffled), "in another order")

	for i := range cs {
		cs[i].Weight *= 1_000_000
	}
	assert.Equal(t, want, places(t, append(cs, balance.Candidate{Name: "drained"})), "with weights of the same proportions")
}

func TestHashPicksAreTheSameInEveryRelease(t *testing.T) {
	cs := weighted(1, 1, 2, 3)
	s := balance.NewSet(balance.Hash, cs)
	var got strings.Builder
	for k := range 40 {
		got.WriteString(strconv.Itoa(s.Pick(noon, key(k), nil)))
	}
	assert.Equal(t, "3120232231312130021113332201313233031022", got.String(),
		"machines with another release would send the same client elsewhere")
}

func TestOneMoreCandidateTakesItsShareAndMovesNothingElse(t *testing.T) {
	for _, n := range []int{1, 2, 9, 16, 99} {
		cs := candidates(n + 1)
		fewer, more := places(t, cs[:n]), places(t, cs)
		added := cs[n].Name
		p := 1 / float64(n+1)
		tolerance := 5 * (slotSigma(p) + math.Sqrt(p/picks))
		assert.InDelta(t, p, moved(t, fewer, more, func(_, to string) bool { return to == added }), tolerance, "from %d candidates to one more", n)
		assert.InDelta(t, p, moved(t, more, fewer, func(from, _ string) bool { return from == added }), tolerance, "from %d candidates to one fewer", n+1)
	}
}

func TestMoreWeightTakesItsShareAndMovesNothingElse(t *testing.T) {
	cs := weighted(3, 3, 3, 1)
	before := places(t, cs)
	cs[3].Weight = 3
	assert.InDelta(t, 0.25-0.1, moved(t, before, places(t, cs), func(_, to string) bool { return to == cs[3].Name }), 0.02)
}

func TestKeysAreSharedByWeight(t *testing.T) {
	hundred := make([]int, 100)
	for i := range hundred {
		hundred[i] = 1 + i%4
	}
	for _, weights := range [][]int{{1, 1}, {1, 1, 1}, {1, 9}, {1, 2, 3, 4}, {1000, 1}, {12345, 54321, 33333}, hundred} {
		cs := weighted(weights...)
		counts := tally(t, balance.NewSet(balance.Hash, cs), picks)
		sum := 0
		for _, w := range weights {
			sum += w
		}
		for i, w := range weights {
			p := float64(w) / float64(sum)
			assert.InDelta(t, p, float64(counts[i])/picks, 5*(slotSigma(p)+math.Sqrt(p/picks)), "candidate %d of %v", i, weights)
		}
	}
}

func TestKeysOfACandidateThatIsDownGoToAllOthers(t *testing.T) {
	cs := candidates(10)
	before := places(t, cs)
	cs[4].Node.Suspend(time.Time{})
	after := places(t, cs)
	moved(t, before, after, func(from, _ string) bool { return from == cs[4].Name })
	counts := map[string]int{}
	total := 0
	for k := range before {
		if before[k] != after[k] {
			counts[after[k]]++
			total++
		}
	}
	require.Len(t, counts, 9)
	for name, n := range counts {
		// each gets 364 of 3277 slots: 5 sigma are 26 %, and some slots are
		// neighbours
		assert.InEpsilon(t, total/9, n, 0.35, name)
	}
	cs[4].Node.Resume(noon, 0)
	assert.Equal(t, before, places(t, cs), "the weight is restored")
}

// bound is the most of all exchanges in flight that one candidate may have.
func bound(all, n int) int64 { return int64(math.Ceil(1.25 * float64(all) / float64(n))) }

func TestAHotKeyOverflowsWhenItsCandidateHasItsShare(t *testing.T) {
	const n = 8
	cs := candidates(n)
	s := balance.NewSet(balance.Hash, cs)
	hot := key(1)
	owner := s.Pick(noon, hot, nil)
	toOwner := 0
	for all := 1; all <= 4000; all++ {
		i := s.Pick(noon, hot, nil)
		if cs[i].Node.Begin(); i == owner {
			toOwner++
		}
		require.LessOrEqual(t, cs[i].Node.InFlight(), bound(all, n))
	}
	assert.EqualValues(t, bound(4000, n), toOwner, "its candidate has reached the load bound")
	end(cs)
	for i := range cs { // the others are busy, the owner is not
		if i != owner {
			begin(cs[i].Node, 5)
		}
	}
	begin(cs[owner].Node, 5)
	assert.Equal(t, owner, s.Pick(noon.Add(time.Second), hot, nil), "the key returns to its candidate")
}

func TestNoCandidateExceedsItsShareUnderUnevenKeys(t *testing.T) {
	cs := weighted(1, 1, 2, 4)
	s := balance.NewSet(balance.Hash, cs)
	now := noon
	zipf := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), 1.2, 1, 1<<20)
	var held []int
	for range picks {
		now = now.Add(20 * time.Microsecond)
		i := s.Pick(now, key(int(zipf.Uint64())), nil)
		cs[i].Node.Begin()
		// The known load may be a moment old, which is five picks.
		most := math.Ceil(1.25 * float64(len(held)+1+5) * float64(cs[i].Weight) / 8)
		if got := cs[i].Node.InFlight(); float64(got) > most {
			t.Fatalf("candidate %d has %d of %d", i, got, len(held)+1)
		}
		if held = append(held, i); len(held) > 200 {
			k := rand.IntN(len(held))
			cs[held[k]].Node.End()
			held[k] = held[len(held)-1]
			held = held[:len(held)-1]
		}
	}
}

func TestTheLoadBoundCountsOnlyCandidatesInService(t *testing.T) {
	cs := candidates(10)
	hot := key(1)
	s := balance.NewSet(balance.Hash, cs)
	owner := s.Pick(noon, hot, nil)
	other := (owner + 1) % 10
	down(cs, owner, other)
	begin(cs[owner].Node, 10)
	begin(cs[other].Node, 10)
	assert.Equal(t, owner, s.Pick(noon, hot, nil), "10 of 20 are the share of one of two")
	begin(cs[owner].Node, 10)
	assert.Equal(t, other, s.Pick(noon.Add(time.Second), hot, nil), "21 of 31 are more than that share")
	assert.Equal(t, owner, s.Pick(noon.Add(time.Second), hot, []int{other}), "unless there is no other candidate")
}

func TestTheLoadBoundGrowsDuringASlowStart(t *testing.T) {
	cs := candidates(10)
	s := balance.NewSet(balance.Hash, cs)
	hot := key(1)
	owner := s.Pick(noon, hot, nil)
	for i, c := range cs {
		if i != owner {
			begin(c.Node, 20)
		}
	}
	cs[owner].Node.Resume(noon, 10*time.Second)
	for _, tt := range []struct {
		after time.Duration
		// the largest n up to 0.125 × share × (n + 180), rounded up
		want int
	}{{0, 3}, {5 * time.Second, 14}, {10 * time.Second, 26}} {
		now := noon.Add(tt.after)
		for s.Pick(now, hot, nil) == owner {
			cs[owner].Node.Begin()
		}
		assert.EqualValues(t, tt.want, cs[owner].Node.InFlight(), "after %v", tt.after)
	}
}

func TestTheLoadBoundIsRecomputedAfterAMillisecond(t *testing.T) {
	cs := candidates(4)
	s := balance.NewSet(balance.Hash, cs)
	hot := key(1)
	owner := s.Pick(noon, hot, nil)
	for _, c := range cs {
		begin(c.Node, 100)
	}
	require.Equal(t, owner, s.Pick(noon, hot, nil))
	require.Equal(t, owner, s.PickAny(noon, hot, nil))
	end(cs)
	begin(cs[owner].Node, 10)
	assert.NotEqual(t, owner, s.Pick(noon.Add(time.Millisecond), hot, nil), "later")
	assert.NotEqual(t, owner, s.Pick(noon.Add(-time.Millisecond), hot, nil), "earlier, by a clock that differs")
	assert.NotEqual(t, owner, s.PickAny(noon, hot, nil))
}

func TestKeysAreTheSameInEveryRelease(t *testing.T) {
	tests := []struct {
		in   string
		want uint64
	}{
		{"", 0xf1f6bfa1264ba294},
		{"a", 0x959f936a239dab0d},
		{"192.0.2.1", 0xd5a05bf8252fbfbe},
		{"12345678", 0x6184aed26450fa77},
		{"/a/path?with=query&and=more", 0x70d8541759cf6be4},
		{"\x00\x00\x00\x00\x00\x00\x00\x00\x00", 0x663273b44f1fcb7d},
	}
	for _, tt := range tests {
		assert.Equal(t, tt.want, balance.KeyString(tt.in), "%q: %#x", tt.in, balance.KeyString(tt.in))
		assert.Equal(t, tt.want, balance.Key([]byte(tt.in)), "%q", tt.in)
	}
}

func TestKeysSpread(t *testing.T) {
	const buckets = 64
	inputs := map[string]func(i int) string{
		"numbers":        strconv.Itoa,
		"IPv4 addresses": func(i int) string { return string([]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) },
		"zeros and then bits": func(i int) string {
			return strings.Repeat("\x00", 16) + string([]byte{byte(i), byte(i >> 8), byte(i >> 16)})
		},
		"lengths":            func(i int) string { return strings.Repeat("x", i%4000) + strconv.Itoa(i/4000) },
		"first bits of many": func(i int) string { return strconv.Itoa(i) + "/a/long/path/that/is/the/same" },
	}
	for name, input := range inputs {
		t.Run(name, func(t *testing.T) {
			low, high := make([]int, buckets), make([]int, buckets)
			seen := make(map[uint64]bool, picks)
			even := make([]float64, buckets)
			for i := range picks {
				k := balance.KeyString(input(i))
				seen[k] = true
				low[k%buckets]++
				high[k>>58]++
			}
			for i := range even {
				even[i] = 1
			}
			assert.Len(t, seen, picks, "no two keys are equal")
			assertShares(t, even, low)
			assertShares(t, even, high)
		})
	}
}

func TestEachBitOfAKeyDependsOnEachBitOfItsInput(t *testing.T) {
	const rounds = 1000
	var flips [24 * 8][64]int
	in := make([]byte, 24)
	for range rounds {
		for i := range in {
			in[i] = byte(rand.Uint32())
		}
		k := balance.Key(in)
		for bit := range flips {
			in[bit/8] ^= 1 << (bit % 8)
			for d, i := k^balance.Key(in), 0; i < 64; i++ {
				flips[bit][i] += int(d >> i & 1)
			}
			in[bit/8] ^= 1 << (bit % 8)
		}
	}
	for bit := range flips {
		for i, n := range flips[bit] { // 6.5 sigma, since there are 12,288 pairs
			assert.InDelta(t, rounds/2, n, 6.5*math.Sqrt(rounds)/2, "bit %d of the input, %d of the key", bit, i)
		}
	}
}

func TestKeysAllocateNothing(t *testing.T) {
	s := strings.Repeat("a string that is longer than any buffer on the stack ", 100)
	b := []byte(s)
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		if balance.KeyString(s) != balance.Key(b) {
			t.Error("KeyString and Key differ")
		}
	}))
}

func BenchmarkKey(b *testing.B) {
	for _, in := range []string{"192.0.2.1", "/a/path?with=query&and=more", strings.Repeat("x", 200)} {
		b.Run("len="+strconv.Itoa(len(in)), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				balance.KeyString(in)
			}
		})
	}
}
