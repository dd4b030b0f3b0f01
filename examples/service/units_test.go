//go:build unix

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// mostExposed is the highest exposure level accepted from systemd-analyze
// security, times ten: 2 of 10.
const mostExposed = "20"

// units returns copies of the unit files that name an existing program.
func units(t *testing.T) (service string, all []string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"hostproxy.service", "hostproxy-https.socket", "hostproxy-http.socket"} {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, []byte(strings.ReplaceAll(string(text), "/usr/local/bin/hostproxy", os.Args[0])), 0o600))
		all = append(all, file)
	}
	return all[0], all
}

// analyze runs systemd-analyze, requires that it succeeds, and returns its
// output.
func analyze(t *testing.T, args ...string) string {
	t.Helper()
	tool, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	out, err := exec.Command(tool, args...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

func TestSystemdAcceptsTheUnits(t *testing.T) {
	_, all := units(t)
	for line := range strings.Lines(analyze(t, append([]string{"verify", "--man=no"}, all...)...)) {
		assert.NotContains(t, line, "hostproxy") // it may complain about other units
	}
}

func TestTheServiceIsHardened(t *testing.T) {
	service, _ := units(t)
	out := strings.TrimSpace(analyze(t, "security", "--offline=true", "--no-pager", "--threshold="+mostExposed, service))
	t.Log(out[strings.LastIndex(out, "\n")+1:])
}

// Covers as much of socket activation as can run without systemd as process 1.
func TestTheServiceTakesSocketsOfSystemd(t *testing.T) {
	tool, err := exec.LookPath("systemd-socket-activate")
	if err != nil {
		t.Skip("systemd-socket-activate is not installed")
	}
	https, plain := proxytest.Free(t), proxytest.Free(t)
	cmd := exec.Command(tool, "--listen="+https, "--listen="+plain, "--fdname=https:http",
		"--setenv="+proxytest.UnitEnv, "--setenv=XDG_DATA_HOME", os.Args[0], "app.localhost="+proxytest.NewServer(t, nil).Addr())
	cmd.Env = append(os.Environ(), proxytest.UnitEnv+"=1", "XDG_DATA_HOME="+t.TempDir())
	log := new(proxytest.Log)
	cmd.Stderr = log
	require.NoError(t, cmd.Start())
	ended := false
	t.Cleanup(func() {
		if !ended {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	proxytest.Eventually(t, "the sockets", func() bool { return strings.Count(log.String(), "Listening on") == 2 })
	// the first connection starts the program
	p := proxytest.Dial(t, plain).Do("GET / HTTP/1.1\r\nHost: app.localhost\r\nConnection: close\r\n\r\n")
	assert.Equal(t, 308, p.StatusCode, "%s", log)
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	ended = true
	assert.NoError(t, cmd.Wait(), "%s", log)
}
