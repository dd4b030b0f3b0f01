package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

func runH2load(ctx context.Context, l *load) (*outcome, error) {
	log := filepath.Join(l.dir, "h2load.log")
	if err := os.Remove(log); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	span := []string{"-D", strconv.Itoa(int(l.duration.Round(time.Second) / time.Second))}
	if l.duration < time.Second {
		// shorter than a second, h2load's unit of time
		span = []string{"-n", strconv.Itoa(4 * l.conns)}
	}
	argv := append([]string{"h2load", "-t1", "-c", strconv.Itoa(l.conns), "-m", strconv.Itoa(l.streams), "--npn-list=h2",
		"--log-file=" + log, "--connect-to=" + l.addr}, span...)
	for _, f := range l.fields() {
		argv = append(argv, "-H", f.name+": "+f.value)
	}
	if l.upload > 0 {
		body := filepath.Join(l.dir, "upload")
		if err := os.WriteFile(body, l.body(), 0o600); err != nil {
			return nil, err
		}
		argv = append(argv, "-d", body)
	}
	out, err := command(ctx, l.duration+grace, append(argv, fmt.Sprintf("https://%s:%s%s", hostName, portOf(l.addr), l.path))...)
	if err != nil {
		return nil, err
	}
	o, err := parseH2load(l.row, out)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(log)
	if err != nil {
		return nil, err
	}
	o.setPercentiles(parseH2loadLog(text))
	return o, nil
}

var (
	h2loadRequests = regexp.MustCompile(`(?m)^requests: .* (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout`)
	h2loadTraffic  = regexp.MustCompile(`(?m)^traffic: .* \((\d+)\) data`)
	h2loadElapsed  = regexp.MustCompile(`(?m)^finished in ([\d.]+)(us|ms|s|m)`)
)

// parseH2load parses h2load's summary.
func parseH2load(r *row, out []byte) (*outcome, error) {
	counts, traffic, elapsed := h2loadRequests.FindSubmatch(out), h2loadTraffic.FindSubmatch(out), h2loadElapsed.FindSubmatch(out)
	if counts == nil || traffic == nil || elapsed == nil {
		return nil, fmt.Errorf("h2load: no summary in %q", out)
	}
	var o outcome
	d, err := time.ParseDuration(string(elapsed[1]) + string(elapsed[2]))
	if err != nil {
		return nil, fmt.Errorf("h2load: %w", err)
	}
	o.elapsed = d
	o.requests = r.answerBytes(number(counts[1]), number(traffic[1]))
	o.errors = int64(number(counts[2]) + number(counts[3]) + number(counts[4]))
	return &o, nil
}

// parseH2loadLog returns the latencies in a log. Each line has the start,
// status and duration, in microseconds, of one request.
func parseH2loadLog(text []byte) []time.Duration {
	var all []time.Duration
	for line := range bytes.Lines(text) {
		if f := bytes.Fields(line); len(f) >= 3 {
			all = append(all, microseconds(number(f[2])))
		}
	}
	return all
}

// number parses digits that a pattern has matched.
func number(digits []byte) float64 {
	n, _ := strconv.ParseFloat(string(digits), 64)
	return n
}

// lineAfter returns the rest of the line of text that begins with prefix.
func lineAfter(text []byte, prefix string) (string, error) {
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, []byte(prefix)); ok {
			return string(bytes.TrimSpace(rest)), nil
		}
	}
	return "", fmt.Errorf("no line %q in %q", prefix, text)
}
