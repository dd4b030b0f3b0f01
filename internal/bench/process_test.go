package main

import (
	"context"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAStatusFileIsParsed(t *testing.T) {
	s := parseStatus([]byte("Name:\tnginx: worker\nVmRSS:\t    4312 kB\nTgid:\t\nvoluntary_ctxt_switches:\t17\nnonvoluntary_ctxt_switches:\t3\n"))
	assert.EqualValues(t, 4312, s["VmRSS"])
	assert.EqualValues(t, 17, s["voluntary_ctxt_switches"])
	assert.EqualValues(t, 3, s["nonvoluntary_ctxt_switches"])
	assert.NotContains(t, s, "Name")
}

func TestCoreTimeExcludesIdleTime(t *testing.T) {
	const stat = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 1 2 3 1000 1000 4 5 6 7 8\ncpu1 100 0 0 50 50 0 0 0 0 0\nintr 1\n"
	sum, err := parseCoreTime([]byte(stat), []int{0})
	require.NoError(t, err)
	assert.Equal(t, 210*time.Millisecond, sum, "guest time is in user time already")

	sum, err = parseCoreTime([]byte(stat), []int{0, 1})
	require.NoError(t, err)
	assert.Equal(t, 1210*time.Millisecond, sum)

	_, err = parseCoreTime([]byte(stat), []int{2})
	assert.Error(t, err)
}

// listening returns the address of a port that accepts connections.
func listening(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

// oneCPU returns a CPU that this process may use.
func oneCPU(t *testing.T) []int {
	t.Helper()
	cpus, err := ownCPUs()
	require.NoError(t, err)
	return cpus[:1]
}

func TestUsageCountsChildrenAndStopEndsThem(t *testing.T) {
	const busy = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done; sleep 60"
	p, err := startProcess(t.Context(), "shell", oneCPU(t), listening(t), []string{"sh", "-c", "sh -c '" + busy + "' & wait"})
	require.NoError(t, err)
	defer p.stop()
	require.Eventually(t, func() bool { return strings.Contains(p.output.String(), "done") }, waitFor, tick)

	u, err := p.usage()
	require.NoError(t, err)
	assert.Positive(t, u.cpu, "the child's work")
	assert.Positive(t, u.rss)
	pids := p.pids()
	assert.GreaterOrEqual(t, len(pids), 2, "the shell and its child")

	p.stop()
	p.stop()
	for _, pid := range pids {
		require.Eventually(t, func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH }, waitFor, tick, "process %d lives on", pid)
	}
}

func TestAProcessThatCannotServeSaysWhy(t *testing.T) {
	addr, err := freeAddr()
	require.NoError(t, err)
	_, err = startProcess(t.Context(), "broken", oneCPU(t), addr, []string{"sh", "-c", "echo bad configuration; exit 3"})
	assert.ErrorContains(t, err, "ended before it served")
	assert.ErrorContains(t, err, "bad configuration")

	_, err = startProcess(t.Context(), "missing", oneCPU(t), addr, []string{"no-such-proxy"})
	assert.ErrorIs(t, err, exec.ErrNotFound)
}

func TestFreeAddressesAreNotGivenToClients(t *testing.T) {
	first, err := firstClientPort()
	require.NoError(t, err)
	for range 50 {
		addr, err := freeAddr()
		require.NoError(t, err)
		_, port, err := net.SplitHostPort(addr)
		require.NoError(t, err)
		n, err := strconv.Atoi(port)
		require.NoError(t, err)
		assert.Less(t, n, first)
		_, err = net.DialTimeout("tcp", addr, time.Second)
		assert.ErrorIs(t, err, syscall.ECONNREFUSED)
	}
}

func TestAClientThatConnectedToItselfIsNotTakenForAServer(t *testing.T) {
	// Both ends of the connection are the same socket: it is bound to the port
	// that it dials.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := ln.Addr().(*net.TCPAddr)
	require.NoError(t, ln.Close())
	self, err := (&net.Dialer{LocalAddr: addr}).Dial("tcp", addr.String())
	require.NoError(t, err)
	defer self.Close()
	require.Equal(t, self.LocalAddr().String(), self.RemoteAddr().String())
	p := &process{done: make(chan struct{})}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	assert.Error(t, p.ready(ctx, addr.String()))
}

func TestATailKeepsTheLastBytes(t *testing.T) {
	out := new(tail)
	for range tailSize {
		out.Write([]byte("noise "))
	}
	out.Write([]byte("the error"))
	assert.Len(t, out.String(), tailSize)
	assert.True(t, strings.HasSuffix(out.String(), "noise the error"))
}
