package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os/exec"
	"slices"
	"time"
)

// A load is the task of a load generator for one server.
type load struct {
	*row
	addr     string
	duration time.Duration
	rate     float64 // requests per second over all connections; 0 means as fast as possible
	dir      string  // for scratch files
	fewer    bool    // see peer
}

// An outcome is the result of a load generator.
type outcome struct {
	requests       float64 // whole responses, or bytes divided by the size of one
	errors         int64   // wrong status, cut connections, timeouts
	elapsed        time.Duration
	p50, p99, p999 time.Duration
}

// body returns the body that each request uploads.
func (r *row) body() []byte {
	b := bytes.Repeat([]byte("x"), r.upload)
	if r.grpc { // one message: the compression flag (off) and the length come first
		b[0] = 0
		binary.BigEndian.PutUint32(b[1:], uint32(r.upload-5))
	}
	return b
}

// fields returns the additional headers of each request.
func (r *row) fields() []field {
	if r.grpc {
		return []field{{"Content-Type", "application/grpc"}, {"TE", "trailers"}}
	}
	return nil
}

// A field is a header of a request.
type field struct{ name, value string }

// rps returns the requests per second.
func (o *outcome) rps() float64 { return o.requests / o.elapsed.Seconds() }

// generators are the load generators on PATH.
type generators struct{ wrk, h2load bool }

// findGenerators returns the generators on PATH, and a line for each missing
// one that says how to install it.
func findGenerators() (g generators, missing []string) {
	has := func(binary string) bool {
		_, err := exec.LookPath(binary)
		return err == nil
	}
	if g.wrk = has("wrk"); !g.wrk {
		missing = append(missing, "wrk is missing: apt-get install wrk; the in-tree generator, which takes more of the load's core, stands in")
	}
	if g.h2load = has("h2load"); !g.h2load {
		missing = append(missing, "h2load is missing: apt-get install nghttp2-client; no HTTP/2 rows")
	}
	return g, missing
}

// shortestWrk is wrk's unit of time. Shorter runs use the in-tree generator.
const shortestWrk = time.Second

// run runs the load with the generator that suits it.
func (g generators) run(ctx context.Context, l *load) (*outcome, error) {
	switch {
	case l.proto == h2TLS:
		return runH2load(ctx, l)
	case l.proto == h3QUIC, l.proto == h2Go:
		return runGo(ctx, l)
	case l.kind == requests && l.rate == 0 && g.wrk && l.duration >= shortestWrk:
		return runWrk(ctx, l)
	default:
		return runClients(ctx, l)
	}
}

// answerBytes returns the number of responses, from the bytes read if the row
// counts bytes. At the end of a run some responses are incomplete; of few large
// responses, these are a large part.
func (r *row) answerBytes(whole, bytes float64) float64 {
	if r.size == 0 {
		return whole
	}
	return bytes / float64(r.size)
}

// setPercentiles sorts all and sets the latencies of the outcome.
func (o *outcome) setPercentiles(all []time.Duration) {
	slices.Sort(all)
	o.p50, o.p99, o.p999 = percentile(all, 0.50), percentile(all, 0.99), percentile(all, 0.999)
}

// percentile returns the value below which the fraction q of sorted lies. It is
// 0 if sorted is empty.
func percentile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// command runs a load generator and returns its output.
func command(ctx context.Context, limit time.Duration, argv ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", argv[0], err, out)
	}
	return out, nil
}

// grace is how long a generator may run beyond its duration.
const grace = 20 * time.Second
