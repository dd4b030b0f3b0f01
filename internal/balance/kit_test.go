package balance_test

import (
	"math"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/internal/balance"
)

const picks = 100_000

// noon is the time in tests that need no clock. Read-only.
var noon = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)

// policies has all policies, with their names in test output. Read-only.
var policies = []struct {
	name   string
	policy balance.Policy
}{
	{"LessBusy", balance.LessBusy},
	{"RoundRobin", balance.RoundRobin},
	{"Random", balance.Random},
	{"Least", balance.Least},
	{"First", balance.First},
	{"Hash", balance.Hash},
	{"unknown", 99},
}

// candidates returns n candidates of weight 1 with nodes of their own.
func candidates(n int) []balance.Candidate {
	cs := make([]balance.Candidate, n)
	for i := range cs {
		cs[i] = balance.Candidate{Node: new(balance.Node), Name: "10.0.0." + strconv.Itoa(i) + ":8080", Weight: 1}
	}
	return cs
}

// weighted returns candidates with the given weights.
func weighted(weights ...int) []balance.Candidate {
	cs := candidates(len(weights))
	for i, w := range weights {
		cs[i].Weight = w
	}
	return cs
}

// begin counts that many exchanges in.
func begin(n *balance.Node, exchanges int) {
	for range exchanges {
		n.Begin()
	}
}

// end counts all exchanges of cs out.
func end(cs []balance.Candidate) {
	for _, c := range cs {
		for range c.Node.InFlight() {
			c.Node.End()
		}
	}
}

// key returns the n-th of many keys.
func key(n int) uint64 { return balance.KeyString("user-" + strconv.Itoa(n)) }

// tally counts how often each candidate is picked at noon, by different keys.
func tally(t *testing.T, s *balance.Set, n int, tried ...int) []int {
	t.Helper()
	counts := make([]int, s.Len())
	for k := range n {
		i := s.Pick(noon, key(k), tried)
		if i < 0 { // not require, which would cost more than the pick
			t.Fatal("nothing picked")
		}
		counts[i]++
	}
	return counts
}

// assertShares checks by Pearson's test at 5 sigma that counts fit the given
// shares: chance alone fails it once in millions of runs. The limit is the
// approximation of Wilson and Hilferty.
func assertShares(t *testing.T, shares []float64, counts []int) {
	t.Helper()
	var sum float64
	total, df := 0, -1.0
	for i, s := range shares {
		sum += s
		total += counts[i]
		if s > 0 {
			df++
		}
	}
	var chi2 float64
	for i, s := range shares {
		if s == 0 {
			assert.Zero(t, counts[i], "candidate %d must not be picked", i)
			continue
		}
		want := float64(total) * s / sum
		chi2 += (float64(counts[i]) - want) * (float64(counts[i]) - want) / want
	}
	if df > 0 {
		v := 2 / (9 * df)
		assert.Less(t, chi2, df*math.Pow(1-v+5*math.Sqrt(v), 3), "shares %v, counts %v", shares, counts)
	}
}
