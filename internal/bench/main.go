// Command bench compares what a request costs in hostproxy, nginx, HAProxy,
// Caddy and httputil.ReverseProxy, side by side on this machine:
//
//	go run -C internal/bench .
//	go run -C internal/bench . -rows '^h1-64$|tls' -rounds 3 -o RESULTS.md
//
// It needs Linux. Peers and load generators that are not installed are skipped,
// with a line that says how to install them. RESULTS.md explains the method.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

func main() {
	run := compare
	if len(os.Args) > 1 && os.Args[1] == serveCommand {
		run = func([]string) error { return serve(os.Args[2:]) }
	}
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	rows, peers string
	out         string
	pprof       string
	rounds      int
	duration    time.Duration
	limit       time.Duration
	quick       bool
	syscalls    bool
}

func parseOptions(args []string) (*options, error) {
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&o.rows, "rows", "", "regular expression that selects rows by name; the names: "+rowNames())
	f.StringVar(&o.peers, "peers", "", "regular expression that selects peers by name")
	f.StringVar(&o.out, "o", "", "write the report to this Markdown `file`, and charts beside it, instead of to standard output")
	f.StringVar(&o.pprof, "pprof", "", "write a CPU profile of hostproxy for each row into this `directory`")
	f.IntVar(&o.rounds, "rounds", 5, "good rounds per row")
	f.DurationVar(&o.duration, "duration", 2*time.Second, "of one load")
	f.DurationVar(&o.limit, "limit", 2*time.Hour, "end after this time at the latest")
	f.BoolVar(&o.quick, "quick", false, "smoke test: only check that all peers answer right")
	f.BoolVar(&o.syscalls, "syscalls", false, "count system calls too, with perf")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if o.rounds < 1 || o.duration <= 0 {
		return nil, errors.New("-rounds and -duration must be positive")
	}
	if o.quick {
		o.rounds, o.duration = 1, quickDuration
	}
	return &o, nil
}

// quickDuration is the duration of a load in a smoke test. It keeps a test of
// all rows and peers below a minute.
const quickDuration = 100 * time.Millisecond

func rowNames() string {
	var names []string
	for _, r := range allRows() {
		names = append(names, r.name)
	}
	return strings.Join(names, " ")
}

// compare does a whole run.
func compare(args []string) (err error) {
	o, err := parseOptions(args)
	if err != nil {
		return err
	}
	rows, err := selectRows(o.rows)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, o.limit)
	defer cancel()
	b, err := newBench(o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	r := &report{date: time.Now(), command: strings.Join(append([]string{"go run -C internal/bench ."}, args...), " "), machine: machine(), tools: b.versions()}
	for _, p := range b.peers {
		r.peers = append(r.peers, p.name)
	}
	end, err := b.startBackends(ctx)
	defer end()
	if err != nil {
		return err
	}
	if r.rows, err = b.measureAll(ctx, rows); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return errors.Join(err, r.publish(o), r.failures())
}

// measureAll measures the rows one after the other. On a timeout it returns the
// results so far and the error.
func (b *bench) measureAll(ctx context.Context, rows []*row) (results []*rowResult, err error) {
	for _, row := range rows {
		if row.proto == h2TLS && !b.tools.h2load {
			continue
		}
		fmt.Fprintln(b.progress, row.title)
		result, err := b.measure(ctx, row)
		// again: on a busy machine a dial may time out
		if err == nil && b.quick && result.failed() {
			result, err = b.measure(ctx, row)
		}
		if err != nil {
			return results, err
		}
		results = append(results, result)
	}
	return results, nil
}

// publish writes the report to where the flags say. A smoke test has no report.
func (r *report) publish(o *options) error {
	switch {
	case o.quick:
		fmt.Printf("%d rows, peers %s\n", len(r.rows), strings.Join(r.peers, ", "))
		return nil
	case o.out == "":
		return r.markdown(os.Stdout, nil)
	default:
		return r.save(o.out)
	}
}

func newBench(o *options) (*bench, error) {
	peers, missing, err := selectPeers(o.peers)
	if err != nil {
		return nil, err
	}
	tools, noTools := findGenerators()
	if o.syscalls {
		if _, err := exec.LookPath("perf"); err != nil {
			o.syscalls, noTools = false, append(noTools, "perf is missing: apt-get install linux-perf; no system calls")
		}
	}
	for _, line := range append(missing, noTools...) {
		fmt.Fprintln(os.Stderr, line)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	allowed, err := ownCPUs()
	if err != nil {
		return nil, err
	}
	if o.pprof != "" {
		if err := os.MkdirAll(o.pprof, 0o755); err != nil {
			return nil, err
		}
	}
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return nil, err
	}
	keys, err := newKeyPair(dir)
	if err != nil {
		return nil, err
	}
	return &bench{
		dir: dir, self: self, keys: keys, allowed: allowed, peers: peers, tools: tools, rounds: o.rounds, duration: o.duration,
		quick: o.quick, syscalls: o.syscalls, profiles: o.pprof, progress: os.Stderr, backends: map[backendKind]string{},
	}, nil
}

// startBackends starts the Go backend, and nginx if it is installed, on the
// CPUs of the load.
func (b *bench) startBackends(ctx context.Context) (end func(), err error) {
	var started []*process
	end = func() {
		for _, p := range started {
			p.stop()
		}
	}
	_, cpus := b.cpus(nil)
	for _, k := range []backendKind{nginxBackend, goBackend} {
		if _, err := exec.LookPath("nginx"); err != nil && k == nginxBackend {
			continue
		}
		dir := filepath.Join(b.dir, fmt.Sprintf("backend-%d", k))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return end, err
		}
		p, addr, err := startBackend(ctx, k, dir, b.self, cpus)
		if err != nil {
			return end, err
		}
		started = append(started, p)
		b.backends[k] = addr
	}
	return end, nil
}

// versions lists peers and tools with their versions.
func (b *bench) versions() []string {
	all := []string{runtime.Version()}
	for _, p := range b.peers {
		if p.binary != "" {
			all = append(all, p.name+" "+p.describe())
		}
	}
	if b.tools.wrk {
		all = append(all, "wrk "+describeTool("wrk", "-v"))
	}
	if b.tools.h2load {
		all = append(all, "h2load "+describeTool("h2load", "--version"))
	}
	return all
}

// machine describes the parts of the hardware that matter for ratios.
func machine() string {
	var kernel string
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		kernel, _, _ = strings.Cut(string(text), "-")
	}
	return fmt.Sprintf("%d cores, Linux %s", runtime.NumCPU(), strings.TrimSpace(kernel))
}
