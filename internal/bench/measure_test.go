package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestASampleDividesTheCostByTheRequests(t *testing.T) {
	o := &outcome{requests: 20_000, elapsed: 2 * time.Second, p99: 3 * time.Millisecond}
	before := reading{usage{cpu: time.Second, switches: 100}, 5 * time.Second}
	after := reading{usage{cpu: 1200 * time.Millisecond, switches: 1100}, 5600 * time.Millisecond}

	s := newSample(&row{kind: requests}, o, before, after)
	assert.InDelta(t, 10, s.value, 1e-9, "µs of CPU per request")
	assert.InDelta(t, 0.05, s.switches, 1e-9)
	assert.InDelta(t, 10_000, s.rps, 1e-9)
	assert.InDelta(t, 0.1, s.busy, 1e-9)
	assert.InDelta(t, 0.2, s.foreign, 1e-9, "600 ms on the core, 200 of them the proxy's")

	s = newSample(&row{kind: latency}, o, before, after)
	assert.InDelta(t, 3000, s.value, 1e-9, "µs of p99")
	assert.InDelta(t, 10, s.cpu, 1e-9)

	s = newSample(&row{kind: requests}, o, reading{}, reading{usage: usage{cpu: time.Second}})
	assert.Zero(t, s.foreign, "the core's time was not read")
}

func TestTheProxyAndTheLoadHaveTheirOwnCores(t *testing.T) {
	tests := []struct {
		name        string
		allowed     []int
		cores       int
		proxy, load []int
	}{
		{"one core: nothing to separate", []int{3}, 0, []int{3}, []int{3}},
		{"two cores", []int{0, 1}, 0, []int{0}, []int{1}},
		{"four cores, the first is not 0", []int{4, 5, 6, 7}, 0, []int{4}, []int{5, 6, 7}},
		{"a row that shares", []int{0, 1, 2}, 2, []int{0, 1}, []int{0, 1, 2}},
		{"a row that would share more than there is", []int{0}, 2, []int{0}, []int{0}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			proxy, load := (&bench{allowed: tt.allowed}).cpus(&row{cores: tt.cores})
			assert.Equal(t, tt.proxy, proxy)
			assert.Equal(t, tt.load, load)
		})
	}
}
