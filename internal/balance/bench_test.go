package balance_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/hostproxy/hostproxy/internal/balance"
)

// states are the states of the targets in benchmarks. Read-only.
var states = []struct {
	name string
	set  func(i int, c *balance.Candidate)
}{
	{"idle", func(int, *balance.Candidate) {}},
	{"busy", func(i int, c *balance.Candidate) { begin(c.Node, 1+i*7%10) }},
	{"weights", func(i int, c *balance.Candidate) { begin(c.Node, 1+i*7%10); c.Weight = 1 + i%3 }},
	{"third-down", func(i int, c *balance.Candidate) {
		if i%3 == 1 {
			c.Node.Suspend(time.Time{})
			return
		}
		begin(c.Node, 1+i*7%10)
	}},
}

// pace is the time between picks: a million a second, which is more than a
// machine serves. It includes the cost of values that expire after a while.
const pace = time.Microsecond

func BenchmarkPick(b *testing.B) {
	start := time.Now()
	for _, p := range policies[:balance.Hash+1] {
		for _, state := range states {
			for _, n := range []int{1, 3, 100} {
				cs := candidates(n)
				for i := range cs {
					state.set(i, &cs[i])
				}
				s := balance.NewSet(p.policy, cs)
				name := fmt.Sprintf("policy=%s/state=%s/n=%d", p.name, state.name, n)
				b.Run(name, func(b *testing.B) {
					b.ReportAllocs()
					now, key := start, uint64(0)
					for b.Loop() {
						s.Pick(now, key, nil)
						now, key = now.Add(pace), key+0x9e3779b97f4a7c15
					}
				})
				b.Run(name+"/parallel", func(b *testing.B) {
					b.ReportAllocs()
					b.RunParallel(func(pb *testing.PB) {
						now, key := start, uint64(0)
						for pb.Next() {
							s.Pick(now, key, nil)
							now, key = now.Add(pace), key+0x9e3779b97f4a7c15
						}
					})
				})
			}
		}
	}
}

func BenchmarkNewSet(b *testing.B) {
	for _, p := range policies[:balance.Hash+1] {
		for _, n := range []int{3, 100, 1000} {
			cs := candidates(n)
			for i := range cs {
				cs[i].Weight = 1 + i%7
			}
			b.Run(fmt.Sprintf("policy=%s/n=%d", p.name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					balance.NewSet(p.policy, cs)
				}
			})
		}
	}
}
