package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// programEnv is set in the process that runs the program. Its value is the
// address to listen on.
const programEnv = "ONDEMAND_PROGRAM"

func TestMain(m *testing.M) {
	if addr := os.Getenv(programEnv); addr != "" {
		beTheProgram(addr)
		return
	}
	proxytest.Main(m)
}

// beTheProgram answers with its process ID. A request for /crash ends it.
func beTheProgram(addr string) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	s := &http.Server{Addr: addr, ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path == "/crash" {
			os.Exit(3)
		}
		fmt.Fprint(w, os.Getpid())
	})}
	context.AfterFunc(ctx, func() { s.Close() })
	if err := s.ListenAndServe(); err != http.ErrServerClosed {
		os.Exit(1)
	}
}

// ask returns the ID of the process that answers.
func ask(t *testing.T, url string) int {
	t.Helper()
	p, err := http.Get(url)
	require.NoError(t, err)
	defer p.Body.Close()
	body, err := io.ReadAll(p.Body)
	require.NoError(t, err)
	n, err := strconv.Atoi(string(body))
	require.NoError(t, err, "%d: %s", p.StatusCode, body)
	return n
}

// runs reports whether a process with this ID exists and is not a zombie.
func runs(pid int) bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d", pid))
	return err == nil
}

func TestTheProgramRunsWhileItIsNeeded(t *testing.T) {
	if _, err := os.Stat("/proc/self"); err != nil {
		t.Skip("there is no /proc")
	}
	target := proxytest.Free(t)
	t.Setenv(programEnv, target)
	ln := proxytest.Listen(t)
	url := "http://" + ln.Addr().String()
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- serve(ctx, ln, target, 200*time.Millisecond, []string{os.Args[0]}) }()
	defer http.DefaultClient.CloseIdleConnections()

	first := ask(t, url)
	require.True(t, runs(first))
	proxytest.Eventually(t, "the program to be stopped", func() bool { return !runs(first) })

	second := ask(t, url)
	assert.NotEqual(t, first, second, "the program was started again")
	p, err := http.Get(url + "/crash")
	require.NoError(t, err)
	p.Body.Close()
	assert.Equal(t, 502, p.StatusCode)
	proxytest.Eventually(t, "the program to be gone", func() bool { return !runs(second) })
	var third int
	proxytest.Eventually(t, "another one", func() bool { // the crash may not have been noticed yet
		p, err := http.Get(url)
		require.NoError(t, err)
		defer p.Body.Close()
		body, _ := io.ReadAll(p.Body)
		third, err = strconv.Atoi(string(body))
		return err == nil
	})
	assert.NotEqual(t, second, third)

	stop()
	assert.NoError(t, <-served)
	assert.False(t, runs(third), "the end of serve stops the program too")
}

func TestAProgramThatCannotBeStartedAnswers503(t *testing.T) {
	ln := proxytest.Listen(t)
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- serve(ctx, ln, proxytest.Refused(t), time.Minute, []string{"/nowhere/no-program"}) }()
	p, err := http.Get("http://" + ln.Addr().String())
	require.NoError(t, err)
	p.Body.Close()
	assert.Equal(t, 503, p.StatusCode)
	assert.Equal(t, "1", p.Header.Get("Retry-After"))
	http.DefaultClient.CloseIdleConnections()
	stop()
	assert.NoError(t, <-served)
}
