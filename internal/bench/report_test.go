package main

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	waitFor = 10 * time.Second
	tick    = 5 * time.Millisecond
)

// samples returns one sample for each pair of value and ratio.
func samples(pairs ...float64) (all []sample) {
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, sample{foreign: 0.25, value: pairs[i], ratio: pairs[i+1], rps: 1000, busy: 0.5, p50: time.Millisecond})
	}
	return all
}

// sampleReport has a row of each kind: measured, noisy, failed, idle.
func sampleReport() *report {
	rows := allRows()
	find := func(name string) *row {
		for _, r := range rows {
			if r.name == name {
				return r
			}
		}
		panic(name)
	}
	return &report{
		date: time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC), command: "go run .", machine: "2 cores", tools: []string{"go1.26", "nginx 1.22"},
		peers: []string{nginxName, pooledName, fastLaneName},
		rows: []*rowResult{
			{row: find("h1-64"), good: 3, discarded: 1, peers: []*peerResult{
				{name: nginxName, samples: samples(10, 1, 12, 1, 11, 1), rss: 15 << 20},
				{name: pooledName, samples: samples(40, 4, 36, 3, 44, 4), syscalls: 7},
				{name: fastLaneName, samples: samples(9, 0.9, 12, 1, 8.8, 0.8)},
			}},
			{row: find("h1-1m"), peers: []*peerResult{
				{name: nginxName, samples: samples(500, 1)},
				{name: pooledName, samples: samples(400, 0.8)},
				{name: fastLaneName, failure: "answer is <status 502>\nand more"},
			}},
			{row: find("idle"), good: 1, peers: []*peerResult{
				{name: nginxName, samples: samples(0.2, 0)},
				{name: pooledName, samples: samples(21, 0)},
				{name: fastLaneName, samples: samples(7, 0)},
			}},
		},
	}
}

func TestTheMedianIsTheMiddleValue(t *testing.T) {
	assert.Equal(t, 3.0, median(samples(9, 0, 1, 0, 3, 0), value))
	assert.Equal(t, 2.0, median(samples(9, 0, 1, 0, 3, 0, 1, 0), value), "of an even number, the mean of both in the middle")
	assert.True(t, math.IsNaN(median(nil, value)))
}

func TestFiguresAreComparedWithTheirTargets(t *testing.T) {
	r := sampleReport()
	small, large, idleRow := r.rows[0], r.rows[1], r.rows[2]
	tests := []struct {
		name   string
		row    *rowResult
		target target
		figure float64
		want   string
	}{
		{"the aim", small, target{peer: fastLaneName, of: nginxName, must: 1.3, aim: 1.0}, 0.9, "aim met"},
		{"the bound", small, target{peer: fastLaneName, of: nginxName, must: 1.3, aim: 0.5}, 0.9, "met"},
		{"a bound without an aim", small, target{peer: fastLaneName, of: pooledName, must: 0.5}, 0.225, "met"},
		{"a miss", small, target{peer: pooledName, of: nginxName, must: 2}, 4, "**missed**"},
		{"a bound without another peer", idleRow, target{peer: fastLaneName, must: 6}, 7, "**missed**"},
		{"a peer that failed", large, target{peer: fastLaneName, of: nginxName, must: 2}, math.NaN(), "not measured"},
		{"a peer to compare with that failed", large, target{peer: nginxName, of: fastLaneName, must: 2}, math.NaN(), "not measured"},
		{"a peer that took no part", small, target{peer: "caddy", of: nginxName, must: 2}, math.NaN(), "not measured"},
		{"another that took no part", small, target{peer: nginxName, of: "caddy", must: 2}, math.NaN(), "not measured"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := tt.row.figure(tt.target)
			if math.IsNaN(tt.figure) {
				assert.True(t, math.IsNaN(got))
			} else {
				assert.InDelta(t, tt.figure, got, 1e-9)
			}
			assert.Equal(t, tt.want, tt.target.verdict(got))
		})
	}
}

func TestAReportShowsWhatWasMeasuredAndWhatWasNot(t *testing.T) {
	var b strings.Builder
	require.NoError(t, sampleReport().markdown(&b, nil))
	for _, line := range []string{
		"2026-11-23, `go run .`, on 2 cores.",
		"Meanwhile other programs took 25 % of the proxy's core; the closer to none, the more the figures mean.",
		"| h1 plain, 45 B, 64 connections | 11.0 (1.00) | 40.0 (4.00) | 9.0 (0.90) |",
		"| h1 plain, 1 MiB body, 16 connections | 500 (1.00) | 400 (0.80) | – |",
		"| h1 plain, 45 B, 64 connections | hostproxy | 0.90 of nginx | ≤ 1.30 | ≤ 1.00 | aim met |",
		"| h1 plain, 45 B, 64 connections | hostproxy full | – of nginx | ≤ 2.10 | ≤ 1.70 | not measured |",
		"| idle keep-alive connection, plain | hostproxy | 7.00 KB | ≤ 6.00 | ≤ 3.50 | **missed** |",
		"| idle keep-alive connection, plain | 0.2 | 21.0 | 7.0 |",
		"* h1 plain, 45 B, 64 connections: good rounds 3, thrown away 1.",
		"* h1 plain, 1 MiB body, 16 connections: nginx never held still; the figures are of one noisy round.",
		"* h1 plain, 1 MiB body, 16 connections: hostproxy failed: answer is <status 502>",
	} {
		assert.Contains(t, b.String(), line+"\n")
	}
	assert.NotContains(t, b.String(), "NaN")
	assert.ErrorContains(t, sampleReport().failures(), "h1-1m: hostproxy: answer is <status 502>\nand more")
}

func TestASavedReportKeepsNotesAndRefersToItsCharts(t *testing.T) {
	name := filepath.Join(t.TempDir(), "RESULTS.md")
	r := sampleReport()
	require.NoError(t, r.save(name))
	first, err := os.ReadFile(name)
	require.NoError(t, err)

	require.NoError(t, os.WriteFile(name, append(first, "\n## Notes\n\nBy hand.\n"...), 0o600))
	r.machine = "64 cores"
	require.NoError(t, r.save(name))
	second, err := os.ReadFile(name)
	require.NoError(t, err)
	assert.Contains(t, string(second), "on 64 cores")
	assert.True(t, strings.HasSuffix(string(second), notesMark+"\n\n## Notes\n\nBy hand.\n"))

	for _, chart := range []string{"RESULTS-small.svg", "RESULTS-large.svg", "RESULTS-idle.svg"} {
		assert.Contains(t, string(second), "("+chart+")")
		text, err := os.ReadFile(filepath.Join(filepath.Dir(name), chart))
		require.NoError(t, err)
		assert.NoError(t, wellFormed(string(text)), chart)
	}
}

// wellFormed returns an error unless text is XML.
func wellFormed(text string) error {
	d := xml.NewDecoder(strings.NewReader(text))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func TestAChartDrawsBarsToScale(t *testing.T) {
	c := chart{title: "a < b", line: 1, legend: []string{"one", "two"}, groups: []group{{title: "row", bars: []float64{2, math.NaN()}}, {title: "next", bars: []float64{1, 4}}}}
	var b strings.Builder
	c.write(&b)
	require.NoError(t, wellFormed(b.String()))
	assert.Contains(t, b.String(), "a &lt; b")
	assert.Equal(t, 1+2+3, strings.Count(b.String(), "<rect"), "background, legend, bars")
	const full = chartWidth - labelWidth - valueMargin
	assert.Contains(t, b.String(), `width="482.0"`, "the largest fills the room")
	assert.Equal(t, 482, full)
	assert.Contains(t, b.String(), `width="241.0"`)
	assert.Contains(t, b.String(), `width="120.5"`)
	assert.Contains(t, b.String(), `<line x1="450.5"`)
	assert.NotContains(t, b.String(), "NaN")
}

func TestChartsWithoutBarsAreLeftOut(t *testing.T) {
	r := sampleReport()
	r.rows = r.rows[2:]
	charts := r.charts("x")
	require.Len(t, charts, 1)
	assert.Equal(t, "x-idle.svg", charts[0].file)
}
