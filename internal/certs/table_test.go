package certs_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

func TestATableHoldsTheSameHostsAsAMap(t *testing.T) {
	for _, most := range []int{3, 40, 3_000} {
		table, model := certs.NewTable(), make(map[string]bool)
		for range 5_000 {
			name := fmt.Sprintf("h%d.example.com", rand.IntN(most))
			byString, byBytes := table.Has(name)
			require.Equal(t, model[name], byString, name)
			require.Equal(t, model[name], byBytes, name)
			switch {
			case !model[name]:
				table.Add(name)
				model[name] = true
			case rand.IntN(2) == 0:
				require.True(t, table.Drop(name))
				delete(model, name)
			}
		}
		assert.ElementsMatch(t, slices.Collect(maps.Keys(model)), table.Walk())
		for name := range model {
			require.True(t, table.Drop(name))
		}
		assert.Empty(t, table.Walk())
	}
}

// A map with string keys would need some 60 bytes.
func TestAHostCostsATableFewBytes(t *testing.T) {
	const hosts, own = 200_000, 96 // own is the size of the host itself
	all := names("h%d.example.com", hosts)
	used := func() int {
		var s runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&s)
		return int(s.HeapAlloc)
	}
	before := used()
	table := certs.NewTable()
	for _, name := range all {
		table.Add(name)
	}
	each := (used() - before) / hosts
	t.Logf("%d bytes a host, %d of them its own", each, own)
	assert.LessOrEqual(t, each, own+16)
	assert.Zero(t, testing.AllocsPerRun(100, func() { _, _ = table.Has(all[7]) }))
	runtime.KeepAlive(table)
}

// A list that is copied as it grows would need some 40 bytes.
func TestAQueueIsNotCopiedAsItGrows(t *testing.T) {
	const n = 200_000
	hosts := certs.Hosts(names("h%d.example.com", n))
	allocated := func() int {
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return int(s.TotalAlloc)
	}
	q := certs.NewQueue()
	before := allocated()
	q.Put(hosts)
	assert.LessOrEqual(t, (allocated()-before)/n, 10, "bytes a host")
}
