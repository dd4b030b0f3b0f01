package main

import (
	"fmt"
	"html"
	"io"
	"math"
)

// A chart is a picture of grouped horizontal bars.
type chart struct {
	file, title string
	line        float64 // value to draw a line at; 0 means no line
	legend      []string
	groups      []group
}

// A group has one bar for each name in the legend.
type group struct {
	title string
	bars  []float64 // NaN means no bar
}

// Sizes in the picture's user units.
const (
	chartWidth  = 860
	labelWidth  = 330
	barHeight   = 11
	groupGap    = 10
	headHeight  = 62
	valueMargin = 48 // room for the number after the longest bar
	charWidth   = 7  // approximate width of a character in the legend
)

// palette returns the colour of a peer by its place in the legend. The colours
// differ in lightness as well as in hue.
func palette(i int) string {
	colours := []string{"#5b5b5b", "#a3a3a3", "#e0b13c", "#b9d3ea", "#6ba3d0", "#f29b70", "#c8441b"}
	return colours[i%len(colours)]
}

// charts returns the pictures of a report. Their file names begin with base.
func (r *report) charts(base string) []chart {
	kinds := []struct {
		file, title string
		line        float64
		want        func(*rowResult) bool
		figure      func(*peerResult) float64
	}{
		{"small", "CPU per request as a multiple of nginx's: small bodies", 1,
			func(r *rowResult) bool { return onCPU(r) && r.row.size == 0 }, func(p *peerResult) float64 { return median(p.samples, ratio) }},
		{"large", "CPU per request as a multiple of nginx's: large bodies", 1,
			func(r *rowResult) bool { return onCPU(r) && r.row.size > 0 }, func(p *peerResult) float64 { return median(p.samples, ratio) }},
		{"idle", "KB of memory per idle connection", 0, isIdle, func(p *peerResult) float64 { return median(p.samples, value) }},
	}
	var charts []chart
	for _, k := range kinds {
		c := chart{file: base + "-" + k.file + ".svg", title: k.title, line: k.line, legend: r.peers}
		for _, row := range r.rows {
			if k.want(row) {
				c.groups = append(c.groups, row.group(r.peers, k.figure))
			}
		}
		if c.largest() > 0 {
			charts = append(charts, c)
		}
	}
	return charts
}

func (r *rowResult) group(names []string, figure func(*peerResult) float64) group {
	g := group{title: r.row.title}
	for _, name := range names {
		bar := math.NaN()
		if p := r.peer(name); p != nil && p.failure == "" {
			bar = figure(p)
		}
		g.bars = append(g.bars, bar)
	}
	return g
}

// largest returns the value of the largest bar, or 0 without bars.
func (c *chart) largest() (most float64) {
	for _, g := range c.groups {
		for _, bar := range g.bars {
			if bar > most { // false for NaN
				most = bar
			}
		}
	}
	return most
}

// write draws the chart as SVG. It has its own background, so that it is
// readable on dark pages too.
func (c *chart) write(w io.Writer) {
	groupHeight := barHeight*len(c.legend) + groupGap
	height := headHeight + groupHeight*len(c.groups)
	scale := (chartWidth - labelWidth - valueMargin) / c.largest()
	fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", chartWidth, height)
	fmt.Fprintf(w, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", chartWidth, height)
	fmt.Fprintf(w, `<text x="12" y="22" font-size="15" font-weight="bold">%s</text>`+"\n", html.EscapeString(c.title))
	c.writeLegend(w)
	for i, g := range c.groups {
		y := headHeight + i*groupHeight
		fmt.Fprintf(w, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", labelWidth-8, y+groupHeight/2, html.EscapeString(g.title))
		for j, bar := range g.bars {
			if math.IsNaN(bar) {
				continue
			}
			top := y + j*barHeight
			fmt.Fprintf(w, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", labelWidth, top, bar*scale, barHeight-1, palette(j))
			fmt.Fprintf(w, `<text x="%.1f" y="%d" font-size="9">%.2f</text>`+"\n", labelWidth+bar*scale+4, top+barHeight-2, bar)
		}
	}
	if c.line > 0 {
		x := labelWidth + c.line*scale
		fmt.Fprintf(w, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#000" stroke-dasharray="3 3"/>`+"\n", x, headHeight-6, x, height-groupGap/2)
	}
	io.WriteString(w, "</svg>\n")
}

func (c *chart) writeLegend(w io.Writer) {
	x := 12
	for i, name := range c.legend {
		fmt.Fprintf(w, `<rect x="%d" y="34" width="10" height="10" fill="%s"/><text x="%d" y="43">%s</text>`+"\n", x, palette(i), x+14, html.EscapeString(name))
		x += 34 + charWidth*len(name)
	}
}
