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

// A load is what a load generator is to do to one server.
type load struct {
	*row
	addr     string
	duration time.Duration
	rate     float64 // requests per second over all connections; 0 is as fast as answers come
	dir      string  // for scratch files
	fewer    bool    // see peer
}

// An outcome is what the load generator saw.
type outcome struct {
	requests       float64 // whole answers, or bytes divided by the size of one
	errors         int64   // wrong status, cut connections, time-outs
	elapsed        time.Duration
	p50, p99, p999 time.Duration
}

// body is what each request uploads.
func (r *row) body() []byte {
	b := bytes.Repeat([]byte("x"), r.upload)
	if r.grpc { // one message: no compression, and its length
		b[0] = 0
		binary.BigEndian.PutUint32(b[1:], uint32(r.upload-5))
	}
	return b
}

// fields are those that each request has of its own.
func (r *row) fields() []field {
	if r.grpc {
		return []field{{"Content-Type", "application/grpc"}, {"TE", "trailers"}}
	}
	return nil
}

// A field is one of a request's.
type field struct{ name, value string }

// rps is requests per second.
func (o *outcome) rps() float64 { return o.requests / o.elapsed.Seconds() }

// generators are the load generators on PATH.
type generators struct{ wrk, h2load bool }

// findGenerators also returns a line for each missing one that says how to
// install it.
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

// shortestWrk is wrk's unit of time; shorter runs use the in-tree generator.
const shortestWrk = time.Second

// run puts the load on the server with the generator that fits.
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

// answerBytes turns bytes read into answers, where the row counts so: at the
// end of a run some answers are on their way, and of few large ones these are
// a large part.
func (r *row) answerBytes(whole, bytes float64) float64 {
	if r.size == 0 {
		return whole
	}
	return bytes / float64(r.size)
}

// setPercentiles sorts all and fills in the outcome's latencies.
func (o *outcome) setPercentiles(all []time.Duration) {
	slices.Sort(all)
	o.p50, o.p99, o.p999 = percentile(all, 0.50), percentile(all, 0.99), percentile(all, 0.999)
}

// percentile returns the value below which the fraction q of sorted lies, or 0
// if sorted is empty.
func percentile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// command runs a load generator and returns what it prints.
func command(ctx context.Context, limit time.Duration, argv ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", argv[0], err, out)
	}
	return out, nil
}

// grace is how long a generator may take beyond its duration.
const grace = 20 * time.Second
