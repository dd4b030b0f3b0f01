package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// wrkScript sets the method and body, and prints the result as one line of
// numbers. wrk's own summary rounds them and has no p99.9.
const wrkScript = `
wrk.method = %q
wrk.body = %s
done = function(summary, latency)
	local e = summary.errors
	io.write(string.format("\nresult %%.0f %%.0f %%.0f %%.0f %%.0f %%.0f %%.0f\n",
		summary.requests, summary.bytes, summary.duration, e.connect + e.read + e.write + e.status + e.timeout,
		latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
`

func runWrk(ctx context.Context, l *load) (*outcome, error) {
	script := filepath.Join(l.dir, "wrk.lua")
	body := "nil"
	if l.upload > 0 {
		body = fmt.Sprintf("string.rep('x', %d)", l.upload)
	}
	if err := os.WriteFile(script, fmt.Appendf(nil, wrkScript, l.verb(), body), 0o600); err != nil {
		return nil, err
	}
	scheme := "http"
	if l.proto.secure() {
		scheme = "https"
	}
	seconds := strconv.Itoa(int(l.duration.Round(time.Second) / time.Second))
	out, err := command(ctx, l.duration+grace, "wrk", "-t1", "-c"+strconv.Itoa(l.conns), "-d"+seconds, "--timeout", "10s",
		"-s", script, fmt.Sprintf("%s://%s:%s%s", scheme, hostName, portOf(l.addr), l.path))
	if err != nil {
		return nil, err
	}
	return parseWrk(l.row, out)
}

// parseWrk parses the line that wrkScript prints.
func parseWrk(r *row, out []byte) (*outcome, error) {
	var o outcome
	var bytes, elapsed, p50, p99, p999 float64
	line, err := lineAfter(out, "result ")
	if err != nil {
		return nil, fmt.Errorf("wrk: %w", err)
	}
	if _, err := fmt.Sscan(line, &o.requests, &bytes, &elapsed, &o.errors, &p50, &p99, &p999); err != nil {
		return nil, fmt.Errorf("wrk: %q: %w", line, err)
	}
	o.requests = r.answerBytes(o.requests, bytes)
	o.elapsed = microseconds(elapsed)
	o.p50, o.p99, o.p999 = microseconds(p50), microseconds(p99), microseconds(p999)
	return &o, nil
}

func microseconds(n float64) time.Duration { return time.Duration(n * float64(time.Microsecond)) }
