package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A process is a running peer or backend with all its children.
type process struct {
	name   string
	cmd    *exec.Cmd
	output *tail
	done   chan struct{} // closed when the process ends
	stop   func()        // ends the process; may be called repeatedly
}

// usage is what a process has consumed since its start, and what it holds now.
type usage struct {
	cpu      time.Duration
	switches int64 // context switches, voluntary or not
	rss      int64 // bytes
}

// startProcess starts argv on these CPUs and waits until addr accepts
// connections. The process ends with stop, or with this process.
func startProcess(ctx context.Context, name string, cpus []int, addr string, argv []string, env ...string) (*process, error) {
	p := &process{name: name, output: new(tail), done: make(chan struct{})}
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Stdout, p.cmd.Stderr = p.output, p.output
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.WaitDelay = time.Second // for output of children that outlive the process
	// A separate process group: the terminal's Ctrl-C reaches only this
	// process, and stop reaches all children.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := startOn(cpus, p.cmd); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	go p.wait()
	p.stop = sync.OnceFunc(p.end)
	if err := p.ready(ctx, addr); err != nil {
		p.stop()
		return nil, fmt.Errorf("%s: %w\n%s", name, err, p.output)
	}
	return p, nil
}

// startOn starts cmd on these CPUs: a child inherits the CPU affinity of the
// thread that forks it.
func startOn(cpus []int, cmd *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var old unix.CPUSet
	if err := unix.SchedGetaffinity(0, &old); err != nil {
		return err
	}
	want := cpuSet(cpus)
	if err := unix.SchedSetaffinity(0, &want); err != nil {
		return err
	}
	defer unix.SchedSetaffinity(0, &old)
	return cmd.Start()
}

// pinSelf binds all threads of this process to these CPUs: the load generators
// in it must not use the proxy's core.
func pinSelf(cpus []int) error {
	tasks, err := filepath.Glob("/proc/self/task/*")
	if err != nil {
		return err
	}
	set := cpuSet(cpus)
	for _, t := range tasks {
		tid, err := strconv.Atoi(filepath.Base(t))
		if err != nil {
			return err
		}
		if err := unix.SchedSetaffinity(tid, &set); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	runtime.GOMAXPROCS(len(cpus))
	return nil
}

// ownCPUs returns the CPUs that this process may use.
func ownCPUs() (cpus []int, err error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, err
	}
	for cpu := 0; len(cpus) < set.Count(); cpu++ {
		if set.IsSet(cpu) {
			cpus = append(cpus, cpu)
		}
	}
	return cpus, nil
}

func cpuSet(cpus []int) (set unix.CPUSet) {
	for _, c := range cpus {
		set.Set(c)
	}
	return set
}

func (p *process) wait() {
	p.cmd.Wait()
	close(p.done)
}

// ready waits until addr accepts a connection.
func (p *process) ready(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			c.Close()
			if c.LocalAddr().String() != addr { // TCP allows a client to connect to itself
				return nil
			}
		}
		select {
		case <-p.done:
			return errors.New("ended before it served")
		case <-ctx.Done():
			return fmt.Errorf("does not serve: %w", err)
		case <-tick.C:
		}
	}
}

// end asks the process to end, and kills it after two seconds.
func (p *process) end() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(2 * time.Second):
	}
	// Kill the rest of the group: all of it, or a worker that outlived its
	// master.
	syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
}

// pids returns the process and its children: nginx works in a child process.
func (p *process) pids() []int {
	pids := []int{p.cmd.Process.Pid}
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pids[0]))
	for _, list := range lists {
		text, _ := os.ReadFile(list) // missing if the thread has ended
		for f := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(f); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// usage adds up the usage of the process and its children.
func (p *process) usage() (u usage, err error) {
	for _, pid := range p.pids() {
		var t unix.Timespec
		if err := unix.ClockGettime(cpuClock(pid), &t); err != nil {
			return u, fmt.Errorf("%s: CPU time of process %d: %w", p.name, pid, err)
		}
		u.cpu += time.Duration(t.Nano())
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
		if err != nil {
			return u, err
		}
		for _, file := range files {
			text, _ := os.ReadFile(file) // missing if the thread has ended
			s := parseStatus(text)
			u.switches += s["voluntary_ctxt_switches"] + s["nonvoluntary_ctxt_switches"]
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return u, err
		}
		u.rss += parseStatus(text)["VmRSS"] << 10
	}
	return u, nil
}

// cpuClock returns the ID of the clock that counts the CPU time of a whole
// process, ended threads included, in nanoseconds. (/proc/PID/stat counts in
// ticks of 10 ms.) The encoding is the kernel's; see clock_getcpuclockid(3).
func cpuClock(pid int) int32 {
	const schedClock = 2
	return int32(^pid)<<3 | schedClock
}

// parseStatus returns the numbers in a /proc/PID/status file by their names.
func parseStatus(text []byte) map[string]int64 {
	numbers := make(map[string]int64)
	for line := range bytes.Lines(text) {
		name, rest, _ := bytes.Cut(line, []byte(":"))
		fields := bytes.Fields(rest)
		if len(fields) == 0 {
			continue
		}
		if n, err := strconv.ParseInt(string(fields[0]), 10, 64); err == nil {
			numbers[string(name)] = n
		}
	}
	return numbers
}

// coreTime returns how long the CPUs have been busy with anything, or taken
// away by a hypervisor. Its resolution is 10 ms.
func coreTime(cpus []int) (time.Duration, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	return parseCoreTime(text, cpus)
}

// parseCoreTime adds up the lines "cpuN user nice system idle iowait irq
// softirq steal …" of these CPUs, without idle and iowait.
func parseCoreTime(text []byte, cpus []int) (sum time.Duration, err error) {
	const perTick = 10 * time.Millisecond // USER_HZ is 100 on every platform that Go supports
	for _, cpu := range cpus {
		line, err := lineAfter(text, fmt.Sprintf("cpu%d ", cpu))
		if err != nil {
			return 0, err
		}
		for i, field := range strings.Fields(line) {
			n, err := strconv.ParseInt(field, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("/proc/stat: %w", err)
			}
			if i < 8 && i != 3 && i != 4 {
				sum += time.Duration(n) * perTick
			}
		}
	}
	return sum, nil
}

// freeAddr returns a free loopback address. The kernel does not give its port
// to clients: otherwise a connection of a load generator, or the one that
// checks whether the server is up, could take the port before the server does.
func freeAddr() (string, error) {
	const lowest = 10_000
	first, err := firstClientPort()
	if err != nil {
		return "", err
	}
	for range 100 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", lowest+rand.IntN(first-lowest)))
		if err == nil {
			return l.Addr().String(), l.Close()
		}
	}
	return "", fmt.Errorf("no free port between %d and %d", lowest, first)
}

// firstClientPort returns the lowest port that the kernel gives to clients.
func firstClientPort() (int, error) {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err != nil {
		return 0, err
	}
	var first, last int
	if _, err := fmt.Sscan(string(text), &first, &last); err != nil {
		return 0, fmt.Errorf("ip_local_port_range: %w", err)
	}
	if first <= 11_000 {
		return 0, fmt.Errorf("ip_local_port_range begins at %d: want room for servers below it", first)
	}
	return first, nil
}

// A tail keeps the last bytes written to it, for errors about a process.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailSize = 4 << 10

// Write implements io.Writer and never fails.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	t.text = t.text[max(0, len(t.text)-tailSize):]
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}
