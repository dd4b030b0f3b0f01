package main

import (
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestMain lets the test binary also act as the servers that a run starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == serveCommand {
		if err := serve(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func TestASmokeRunOfInTreePeersGetsTheRightAnswers(t *testing.T) {
	err := compare([]string{"-quick", "-peers", "^httputil$", "-rows", "^(h1-post-16k|h1-chunked-16k|websocket|handshake-resumed|latency-slow|idle)$"})
	require.NoError(t, err)
}

func TestFlagsAreCheckedBeforeAnythingStarts(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"a row that does not exist", []string{"-rows", "h9"}, `no row matches "h9"`},
		{"a bad expression", []string{"-rows", "("}, "-rows: error parsing"},
		{"a peer that does not exist", []string{"-peers", "apache"}, `none installed matches "apache"`},
		{"no rounds", []string{"-rounds", "0"}, "must be positive"},
		{"no time", []string{"-duration", "0s"}, "must be positive"},
		{"an argument without a flag", []string{"nginx"}, `unexpected argument "nginx"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			assert.ErrorContains(t, compare(tt.args), tt.want)
		})
	}
}

func TestRowsHaveUniqueNamesAndAreComplete(t *testing.T) {
	seen := make(map[string]bool)
	for _, r := range allRows() {
		assert.False(t, seen[r.name], "two rows %q", r.name)
		seen[r.name] = true
		assert.NotEmpty(t, r.title)
		if r.kind != latency {
			assert.LessOrEqual(t, len([]rune(r.title)), 52, "%q does not fit into a chart", r.title)
		}
		assert.Positive(t, r.conns, r.name)
		assert.Equal(t, r.proto == h2TLS || r.proto == h3QUIC, r.streams > 0, "%s: streams belong to HTTP/2 and HTTP/3", r.name)
		for _, target := range r.targets {
			assert.Less(t, target.aim, target.must, r.name)
		}
	}
}

func TestPeersAreMeasuredOnRowsThatTheyCanServe(t *testing.T) {
	b := &bench{peers: []*peer{{name: "any"}, {name: "proxy of HTTP/2", h2Only: true}, {name: "without gRPC", h2Only: true, h1Back: true}}}
	for want, r := range map[int]*row{1: {proto: h1TLS}, 3: {proto: h2TLS}, 2: {proto: h2TLS, grpc: true}} {
		assert.Len(t, b.peersOf(r), want)
	}
	assert.Len(t, b.peers, 3)
}

func TestRowsAreSelectedInOrder(t *testing.T) {
	rows, err := selectRows("^idle|h1-8$")
	require.NoError(t, err)
	var names []string
	for _, r := range rows {
		names = append(names, r.name)
	}
	assert.Equal(t, []string{"h1-8", "idle", "idle-tls", "idle-h2"}, names)
}

func TestASmokeRunOfHTTP3GetsTheRightAnswers(t *testing.T) {
	require.NoError(t, compare([]string{"-quick", "-peers", "^hostproxy", "-rows", "^h3-"}))
}
