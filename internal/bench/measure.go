package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// A bench is one run: the peers, the backends behind them, and the rules.
type bench struct {
	dir      string // temporary directory
	self     string // path of this program
	keys     *keyPair
	allowed  []int // CPUs that may be used
	peers    []*peer
	tools    generators
	rounds   int
	duration time.Duration // of one load
	quick    bool
	syscalls bool
	profiles string // directory for profiles; "" means none
	progress io.Writer
	backends map[backendKind]string // addresses
}

// A sample is one load on one peer.
type sample struct {
	value    float64 // in the row's unit
	ratio    float64 // value relative to that of nginx in the same round; 0 without nginx
	cpu      float64 // µs per request
	switches float64 // context switches per request
	rps      float64
	busy     float64 // CPU time per elapsed time
	// other processes' CPU time on the proxy's core, per elapsed time; 0 if the
	// proxy shares its cores
	foreign        float64
	p50, p99, p999 time.Duration
}

// A peerResult is the result of one peer on a row.
type peerResult struct {
	name     string
	failure  string // why the peer was not measured to the end; "" means it was
	samples  []sample
	rss      int64   // bytes after the last load
	syscalls float64 // per request; 0 means not measured
}

// A rowResult is one measured row.
type rowResult struct {
	row   *row
	peers []*peerResult // in the order of peersOf
	good  int           // number of rounds that count
	// number of rounds in which the reference peer's values differed too much
	discarded int
}

// settled is how far the two values of the reference peer may differ within a
// round, relative to the lower one.
const settled = 0.10

// cpus returns the CPUs for the proxy, and those for load and backends: the
// first CPU, and the others. If the row has several cores, or if there is one
// CPU, the load may use the proxy's too.
func (b *bench) cpus(r *row) (proxy, load []int) {
	all := b.allowed
	if r != nil && r.cores > 1 {
		return all[:min(r.cores, len(all))], all
	}
	return all[:1], all[min(1, len(all)-1):]
}

// A running is a peer that is serving a row.
type running struct {
	*peerResult
	proc *process
	load *load
	max  float64 // maximum of requests per second in a closed loop, for latency rows only
}

// measure measures one row on all peers.
func (b *bench) measure(ctx context.Context, r *row) (*rowResult, error) {
	if b.quick {
		r.shrink()
	}
	_, cpus := b.cpus(r)
	if err := pinSelf(cpus); err != nil {
		return nil, err
	}
	want, err := direct(ctx, r, b.backend(r))
	if err != nil {
		return nil, err
	}
	result := &rowResult{row: r}
	peers, stop := b.startPeers(ctx, want, result)
	defer stop()
	if r.kind == idle {
		b.measureIdle(ctx, peers)
		result.good = 1
	} else {
		b.measureRounds(ctx, peers, result)
	}
	for _, p := range peers {
		if p.failure == "" {
			b.finish(ctx, p)
		}
	}
	return result, ctx.Err()
}

// startPeers starts, checks and warms up all peers. Peers that fail are noted
// in the result and not returned. stop ends all of them.
func (b *bench) startPeers(ctx context.Context, want answer, result *rowResult) (ready []*running, stop func()) {
	peers := b.peersOf(result.row)
	started := make([]*running, len(peers))
	var wg sync.WaitGroup
	for i, p := range peers {
		result.peers = append(result.peers, &peerResult{name: p.name})
		started[i] = &running{peerResult: result.peers[i]}
		wg.Go(func() { started[i].fail(b.startPeer(ctx, result.row, p, started[i])) })
	}
	wg.Wait()
	for _, p := range started {
		if p.failure == "" {
			p.fail(b.prepare(ctx, p, want))
		}
		if p.failure == "" {
			ready = append(ready, p)
		}
	}
	return ready, func() {
		var wg sync.WaitGroup
		for _, p := range started {
			if p.proc != nil {
				wg.Go(p.proc.stop)
			}
		}
		wg.Wait()
	}
}

// peersOf returns the peers that are measured on the row.
func (b *bench) peersOf(r *row) []*peer {
	if r.feature != "" {
		return featurePeers(r.feature)
	}
	return slices.DeleteFunc(slices.Clone(b.peers), func(p *peer) bool { return !p.takesPart(r) })
}

// startTries limits how often a peer is started: another process may take its
// port first.
const startTries = 3

// startPeer starts one peer.
func (b *bench) startPeer(ctx context.Context, r *row, p *peer, to *running) (err error) {
	for range startTries {
		if err = b.tryPeer(ctx, r, p, to); err == nil || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// tryPeer starts one peer in a directory of its own.
func (b *bench) tryPeer(ctx context.Context, r *row, p *peer, to *running) error {
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	proxyCPUs, _ := b.cpus(r)
	s := &site{
		dir: filepath.Join(b.dir, r.name, p.name), binary: b.self, listen: addr, secure: r.proto.secure(), keys: b.keys,
		backend: b.backend(r), h2c: r.grpc, cores: len(proxyCPUs), twoTargets: r.feature != "",
	}
	if b.profiles != "" && (strings.HasPrefix(p.name, fastLaneName) || strings.HasPrefix(p.name, withPrefix)) {
		s.profile = filepath.Join(b.profiles, strings.ReplaceAll(r.name+"-"+p.name, " ", "-")+".prof")
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	argv, err := p.command(s)
	if err != nil {
		return err
	}
	to.load = &load{row: r.servedTo(p), addr: addr, duration: b.duration, dir: s.dir, fewer: p.fewer}
	to.proc, err = startProcess(ctx, p.name, proxyCPUs, addr, argv,
		fmt.Sprintf("GOMAXPROCS=%d", s.cores), "HOME="+s.dir)
	return err
}

// backend returns the address of the row's backend.
func (b *bench) backend(r *row) string {
	return cmp.Or(b.backends[r.backend], b.backends[goBackend])
}

// warmUp is the duration of the load before the first measurement.
const warmUp = 500 * time.Millisecond

// prepare checks the peer and warms it up.
func (b *bench) prepare(ctx context.Context, p *running, want answer) error {
	if err := checkAlike(ctx, p.load, want); err != nil {
		return err
	}
	first := *p.load
	first.duration = min(warmUp, b.duration/2)
	if first.kind == idle {
		// Enough connections to grow what grows once, but so few that they
		// leave nothing to reuse.
		idleRow := *first.row
		idleRow.conns = min(idleRow.conns, 16)
		first.row = &idleRow
	}
	if _, err := b.tools.run(ctx, &first); err != nil || p.load.kind != latency {
		return err
	}
	first.duration = b.duration
	o, err := runClients(ctx, &first)
	if err != nil {
		return err
	}
	p.max = o.rps()
	return nil
}

// fail records the first error and the peer's output.
func (p *running) fail(err error) {
	if err == nil || p.failure != "" {
		return
	}
	p.failure = err.Error()
	if p.proc != nil {
		p.failure = strings.TrimSpace(p.failure + "\n" + p.proc.output.String())
	}
}

// measureRounds measures until enough rounds are good, but at most twice as
// many.
func (b *bench) measureRounds(ctx context.Context, peers []*running, result *rowResult) {
	var last []sample
	for try := 0; result.good < b.rounds && try < 2*b.rounds && ctx.Err() == nil; try++ {
		samples, steady := b.round(ctx, peers)
		if steady || b.quick {
			keep(peers, samples)
			result.good++
			continue
		}
		last = samples
		result.discarded++
	}
	if result.good == 0 && last != nil {
		keep(peers, last) // better than nothing; good == 0 marks it
	}
}

func keep(peers []*running, samples []sample) {
	for i, p := range peers {
		if p.failure == "" {
			p.samples = append(p.samples, samples[i])
		}
	}
}

// round measures each peer once. The first one is the reference: it is measured
// again at the end, and steady reports whether both of its values agree. Ratios
// are relative to their mean.
func (b *bench) round(ctx context.Context, peers []*running) (samples []sample, steady bool) {
	samples = make([]sample, len(peers))
	for i, p := range peers {
		samples[i] = b.once(ctx, p)
	}
	if len(peers) == 0 || peers[0].name != nginxName && peers[0].load.row.feature == "" || peers[0].failure != "" {
		return samples, true
	}
	first, second := samples[0], b.once(ctx, peers[0])
	moved := math.Abs(first.cpu-second.cpu) / min(first.cpu, second.cpu)
	anchor := (first.value + second.value) / 2
	for i := range samples {
		samples[i].ratio = samples[i].value / anchor
	}
	samples[0].value, samples[0].cpu, samples[0].ratio = anchor, (first.cpu+second.cpu)/2, 1
	fmt.Fprintf(b.progress, "  round: %s %.1f µs, then %.1f\n", peers[0].name, first.cpu, second.cpu)
	return samples, moved <= settled
}

// once runs the load on a peer and measures the cost.
func (b *bench) once(ctx context.Context, p *running) (s sample) {
	if p.failure != "" || ctx.Err() != nil {
		return s
	}
	l := *p.load
	l.rate = p.max * ofMaximum
	cores, _ := b.cpus(l.row)
	before, err := p.read(cores)
	p.fail(err)
	o, err := b.tools.run(ctx, &l)
	if err != nil {
		p.fail(err)
		return s
	}
	after, err := p.read(cores)
	p.fail(err)
	if o.errors > 0 || o.requests == 0 {
		p.fail(fmt.Errorf("%d errors beside %.0f answers", o.errors, o.requests))
		return s
	}
	return newSample(l.row, o, before, after)
}

// A reading is what a process and its CPUs have consumed up to now.
type reading struct {
	usage
	core time.Duration // by all processes; 0 if the proxy shares its CPUs
}

func (p *running) read(cpus []int) (r reading, err error) {
	if len(cpus) == 1 {
		if r.core, err = coreTime(cpus); err != nil {
			return r, err
		}
	}
	r.usage, err = p.proc.usage()
	return r, err
}

// newSample divides the consumption between two readings by the work done.
func newSample(r *row, o *outcome, before, after reading) sample {
	cpu := after.cpu - before.cpu
	s := sample{
		cpu:      cpu.Seconds() * 1e6 / o.requests,
		switches: float64(after.switches-before.switches) / o.requests,
		rps:      o.rps(),
		busy:     cpu.Seconds() / o.elapsed.Seconds(),
		foreign:  max(0, (after.core-before.core-cpu).Seconds()/o.elapsed.Seconds()),
		p50:      o.p50, p99: o.p99, p999: o.p999,
	}
	s.value = s.cpu
	if r.kind == latency {
		s.value = s.p99.Seconds() * 1e6
	}
	return s
}

// ofMaximum sets the fixed rate of latency rows, as a part of the maximum that
// the peer and the in-tree generator reach together.
const ofMaximum = 0.6

// measureIdle opens the row's connections to each peer and compares its memory
// before and after.
func (b *bench) measureIdle(ctx context.Context, peers []*running) {
	for _, p := range peers {
		p.fail(p.idleCost(ctx, min(restTime, b.duration)))
	}
}

// restTime lets a garbage collector or a sweeper finish its work.
const restTime = 500 * time.Millisecond

func (p *running) idleCost(ctx context.Context, rest time.Duration) error {
	before, err := p.proc.usage()
	if err != nil {
		return err
	}
	open, err := openIdle(ctx, p.load)
	defer func() {
		for _, c := range open {
			c.conn.Close()
		}
	}()
	if err != nil {
		return err
	}
	time.Sleep(rest)
	after, err := p.proc.usage()
	if err != nil {
		return err
	}
	kb := float64(after.rss-before.rss) / 1024 / float64(p.load.conns)
	p.samples = append(p.samples, sample{value: max(kb, 0)})
	return nil
}

// finish takes the readings that are taken only once, after the last round.
func (b *bench) finish(ctx context.Context, p *running) {
	u, err := p.proc.usage()
	p.fail(err)
	p.rss = u.rss
	if b.syscalls && p.load.kind != idle {
		if p.syscalls, err = b.countSyscalls(ctx, p); err != nil {
			fmt.Fprintf(b.progress, "  %s: %v\n", p.name, err)
		}
	}
}
