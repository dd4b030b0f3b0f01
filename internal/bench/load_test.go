package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	wrkOutput = `Running 2s test @ http://localhost:36433/small
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.10ms    1.02ms  25.91ms   93.93%
  129432 requests in 2.00s, 24.69MB read
Requests/sec:  64660.25

result 129432 25886400 2001734 2 912 4100 9000
`
	h2loadOutput = `starting benchmark...
TLS Protocol: TLSv1.3

finished in 2.01s, 40311.00 req/s, 5.22MB/s
requests: 80622 total, 80686 started, 80622 done, 80620 succeeded, 1 failed, 1 errored, 3 timeout
status codes: 80622 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 10.45MB (10954321) total, 3.77MB (3950478) headers (space savings 75.50%), 3.46MB (3627990) data
                     min         max         mean         sd        +/- sd
time for request:      104us     15.91ms      1.57ms       901us    83.17%
`
)

func TestTheOutputOfWrkIsParsed(t *testing.T) {
	t.Run("whole answers", func(t *testing.T) {
		o, err := parseWrk(&row{}, []byte(wrkOutput))
		require.NoError(t, err)
		assert.Equal(t, &outcome{requests: 129432, errors: 2, elapsed: 2001734 * time.Microsecond, p50: 912 * time.Microsecond,
			p99: 4100 * time.Microsecond, p999: 9 * time.Millisecond}, o)
		assert.InDelta(t, 64660, o.rps(), 1)
	})
	t.Run("large answers count by their bytes", func(t *testing.T) {
		o, err := parseWrk(&row{size: 1 << 20}, []byte(wrkOutput))
		require.NoError(t, err)
		assert.InDelta(t, 24.687, o.requests, 0.001)
	})
	for name, text := range map[string]string{
		"no result":       "unable to connect to localhost:1 Connection refused\n",
		"a broken result": "result 1 2\n",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseWrk(&row{}, []byte(text))
			assert.Error(t, err)
		})
	}
}

func TestTheOutputOfH2loadIsParsed(t *testing.T) {
	o, err := parseH2load(&row{}, []byte(h2loadOutput))
	require.NoError(t, err)
	assert.Equal(t, &outcome{requests: 80620, errors: 5, elapsed: 2010 * time.Millisecond}, o)

	o, err = parseH2load(&row{size: 45}, []byte(h2loadOutput))
	require.NoError(t, err)
	assert.InDelta(t, 3627990.0/45, o.requests, 0.001, "large answers count by their bytes")

	_, err = parseH2load(&row{}, []byte("could not resolve host\n"))
	assert.Error(t, err)
}

func TestTheLogOfH2loadYieldsPercentiles(t *testing.T) {
	var o outcome
	o.setPercentiles(parseH2loadLog([]byte("1763870000000001\t200\t300\n1763870000000002\t200\t100\n\n1763870000000003\t200\t200\n")))
	assert.Equal(t, outcome{p50: 200 * time.Microsecond, p99: 300 * time.Microsecond, p999: 300 * time.Microsecond}, o)
}

func TestPercentilesAreDefinedForZeroOrOneValue(t *testing.T) {
	assert.Zero(t, percentile(nil, 0.99))
	assert.Equal(t, time.Second, percentile([]time.Duration{time.Second}, 0))
	assert.Equal(t, time.Second, percentile([]time.Duration{time.Second}, 1))
}

func TestTheOutputOfPerfIsParsed(t *testing.T) {
	n, err := parsePerf("51234,,raw_syscalls:sys_enter,2001234567,100.00,,\n")
	require.NoError(t, err)
	assert.Equal(t, 51234.0, n)

	for _, text := range []string{"", "<not supported>,,raw_syscalls:sys_enter,0,100.00,,\n", "event syntax error: 'raw_syscalls:sys_enter'\n"} {
		_, err := parsePerf(text)
		assert.Error(t, err, text)
	}
}
