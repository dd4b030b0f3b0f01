package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// countSyscalls runs the load on a peer again and returns its system calls per
// request. This is a separate run because counting costs CPU time.
func (b *bench) countSyscalls(ctx context.Context, p *running) (float64, error) {
	var pids []string
	for _, pid := range p.proc.pids() {
		pids = append(pids, strconv.Itoa(pid))
	}
	var out bytes.Buffer
	perf := exec.CommandContext(ctx, "perf", "stat", "-x,", "-e", syscallEvent, "-p", strings.Join(pids, ","))
	perf.Stderr = &out
	if err := perf.Start(); err != nil {
		return 0, err
	}
	l := *p.load
	l.rate = p.max * ofMaximum
	o, err := b.tools.run(ctx, &l)
	perf.Process.Signal(os.Interrupt)
	perf.Wait() // its exit status is that of the signal
	if err != nil {
		return 0, err
	}
	n, err := parsePerf(out.String())
	return n / o.requests, err
}

const syscallEvent = "raw_syscalls:sys_enter"

// parsePerf returns the count in the line "count,unit,event,…" of perf stat -x.
func parsePerf(out string) (float64, error) {
	for line := range strings.Lines(out) {
		count, rest, _ := strings.Cut(line, ",")
		if n, err := strconv.ParseFloat(count, 64); err == nil && strings.Contains(rest, syscallEvent) {
			return n, nil
		}
	}
	return 0, fmt.Errorf("perf: no count in %q", out)
}
