package status

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// The bars of a chart of a Spread. Each bar covers durations up to twice as
// long as the bar before. The first one includes all shorter durations, the
// last one all longer ones.
const (
	firstBar  = 7  // below 131 µs
	lastBar   = 25 // 17 s and longer
	barWidth  = 5
	barHeight = 24
)

// chartWidth is the width of a chart in the units of its path.
const chartWidth = (lastBar - firstBar + 1) * barWidth

// Grid lines are below all bars, and where the bars of 1 ms, 33 ms and 1 s
// begin.
const grid = "M0 23.7H95M20 0V24M45 0V24M70 0V24"

// bars returns the path of a chart of spread, or "" if it is empty. Each bar
// with a count is high enough to be visible.
func bars(spread []uint64) string {
	var counts [lastBar - firstBar + 1]uint64
	most := uint64(0)
	for i, n := range spread {
		at := min(max(i, firstBar), lastBar) - firstBar
		counts[at] += n
		most = max(most, counts[at])
	}
	var b strings.Builder
	for i, n := range counts {
		if n == 0 {
			continue
		}
		height := max(int(math.Round(barHeight*float64(n)/float64(most))), 2)
		fmt.Fprintf(&b, "M%d %dv-%dh%dv%dz", i*barWidth, barHeight, height, barWidth-1, height)
	}
	return b.String()
}

func when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

func day(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02")
}

func milliseconds(f float64) string {
	switch {
	case f == 0:
		return ""
	case f >= 100:
		return number(uint64(math.Round(f)))
	case f >= 10:
		return fmt.Sprintf("%.1f", f)
	}
	return fmt.Sprintf("%.2f", f)
}

// number writes n with commas between groups of three digits.
func number(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// rate writes a rate per second. Only zero is written as 0.
func rate(f float64) string {
	switch {
	case f <= 0:
		return "0"
	case f < 0.01:
		return "<0.01"
	case f < 1:
		return fmt.Sprintf("%.2f", f)
	case f < 100:
		return fmt.Sprintf("%.1f", f)
	}
	return number(uint64(math.Round(f)))
}

// percent writes a share. Only zero is written as 0, and only the whole as 100
// %.
func percent(f float64) string {
	switch {
	case f <= 0:
		return "0"
	case f < 0.0001:
		return "<0.01 %"
	case f < 1 && f > 0.999:
		return ">99.9 %"
	case f < 0.01:
		return fmt.Sprintf("%.2f %%", 100*f)
	case f < 1:
		return fmt.Sprintf("%.1f %%", 100*f)
	}
	return "100 %"
}
