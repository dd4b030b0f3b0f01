package certs_test

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSettingsThatNoRouteUsesAreWarnedAboutOncePerChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const homeless, idle = "no route serves TLS.DefaultHost", "TLS.HostPolicy has no effect"
		var log logBuffer
		o := with(newIssuer(t, "ca", day(90)))
		o.Logger, o.Policy, o.DefaultHost = log.logger(slog.LevelWarn), always, "b.example.com"
		m, r := start(t, o)
		said := func() (int, int) {
			time.Sleep(2 * time.Second)
			return strings.Count(log.String(), homeless), strings.Count(log.String(), idle)
		}
		r.set("b.example.com", "*.example.org")
		n, k := said()
		assert.Zero(t, n+k, "routes that come within a second of the start are in time: %s", log.String())
		for _, c := range []struct {
			what           string
			hosts          []string
			homeless, idle int
		}{
			{"a wildcard does for the default host", []string{"*.example.com"}, 0, 0},
			{"neither", []string{"a.example.com"}, 1, 1},
			{"still neither", []string{"a.example.com", "c.example.com"}, 1, 1},
			{"both", []string{"*"}, 1, 1},
			{"neither again", nil, 2, 1},
		} {
			r.set(c.hosts...)
			n, k := said()
			assert.Equal(t, c.homeless, n, c.what)
			assert.Equal(t, c.idle, k, c.what)
		}
		r.set("b.example.com", "*.example.org")
		said()
		for i := range 200 { // without a pause
			r.set(names("h%d.example.com", i+1)...)
			time.Sleep(100 * time.Millisecond)
		}
		assert.Equal(t, 3, strings.Count(log.String(), homeless))
		require.NoError(t, m.Close())
	})
}
