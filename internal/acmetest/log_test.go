package acmetest_test

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/acmetest"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestAFailureIsOneLineThatReadsAsASentence(t *testing.T) {
	var log proxytest.Log
	p := run(t, acmetest.Options{HTTPPort: 1, TLSPort: 1}, func(r *hostproxy.Router, _ *acmetest.CA, _ acmetest.Options) {
		r.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelInfo}))
	}, "a.example.com")
	var s hostproxy.CertStatus
	proxytest.Eventually(t, "the failure", func() bool {
		for s = range p.r.Certificates() {
			return s.State == hostproxy.CertFailed
		}
		return false
	})
	p.stop()
	var lines []string
	for line := range strings.Lines(log.String()) {
		if strings.Contains(line, "a.example.com") {
			lines = append(lines, line)
		}
	}
	assert.Len(t, lines, 1)
	assert.NotContains(t, log.String(), "map[")
	assert.NotContains(t, log.String(), "0001-01-01")
	assert.NotContains(t, s.Err.Error(), "\n")
}
