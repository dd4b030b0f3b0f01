package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestMain(m *testing.M) { proxytest.Main(m) }

// runs returns the program's output and its exit code.
func runs(t *testing.T, args ...string) (out, errs string, code int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if !slices.Contains(args, "-check") {
		cancel() // so that a proxy ends at once
	}
	var stdout, stderr bytes.Buffer
	code = run(ctx, args, &stdout, &stderr)
	return stdout.String(), stderr.String(), code
}

func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "proxy.yaml")
	require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
	return name
}

const right = "listeners: [{addr: \"127.0.0.1:0\", role: plain}]\nroutes: {a.localhost: localhost:1}\n"

func TestABrokenFileEndsTheProgramWithExitCode1(t *testing.T) {
	bad := file(t, "routes: {a.localhost: localhost}\nlog: {level: x}\n")
	want := "proxy: the configuration is refused:\n" +
		bad + ":1:10: routes[a.localhost]: target \"localhost\": the port is missing: write localhost:80 or another port\n" +
		bad + ":2:14: log.level: \"x\": want one of info, debug, warn, error\n"
	for _, args := range [][]string{{"-config", bad}, {"-config", bad, "-check"}, {"-config", bad, "-check", "-against", bad}} {
		out, errs, code := runs(t, args...)
		assert.Equal(t, 1, code)
		assert.Empty(t, out)
		assert.Equal(t, want, errs)
	}
}

func TestARightFileIsServedAndChecked(t *testing.T) {
	good := file(t, right)
	_, errs, code := runs(t, "-config", good)
	assert.Equal(t, 0, code, errs)
	assert.Contains(t, errs, "msg=serving")
	out, _, code := runs(t, "-config", good, "-check")
	assert.Equal(t, 0, code)
	assert.Equal(t, good+" is right\n", out)
}

func TestAnAddressInUseIsAFaultOfItsLine(t *testing.T) {
	ln := proxytest.Listen(t)
	f := file(t, fmt.Sprintf("listeners:\n- {role: plain, addr: \"%s\"}\nroutes: {a.localhost: localhost:1}\n", ln.Addr()))
	_, errs, code := runs(t, "-config", f)
	assert.Equal(t, 1, code)
	assert.Contains(t, errs, f+":2:17: listeners[0].addr: listen tcp")
}

func TestTheDifferenceToAFileOrARunningProxyIsPrinted(t *testing.T) {
	old, next := file(t, right), file(t, right+"log: {level: debug}\n")
	restarts := file(t, right+"tls: {email: a@b.c}\n")
	running := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path != "/" {
			http.NotFound(w, q)
			return
		}
		_, _ = w.Write([]byte("# in force\n" + right))
	}))
	defer running.Close()
	for _, against := range []string{old, running.URL} {
		out, errs, code := runs(t, "-config", next, "-check", "-against", against)
		assert.Equal(t, 0, code, errs)
		assert.Equal(t, "log.level: (none) -> debug\n", out)
		out, _, code = runs(t, "-config", restarts, "-check", "-against", against)
		assert.Equal(t, 3, code)
		assert.Equal(t, "tls.email: (none) -> \"a@b.c\" (needs a restart: a running proxy refuses the file)\n", out)
	}
	_, errs, code := runs(t, "-config", next, "-check", "-against", running.URL+"/x")
	assert.Equal(t, 1, code)
	assert.Contains(t, errs, "want the URL of a listener with the handler config")
}

func TestWrongFlagsAreRefused(t *testing.T) {
	for _, args := range [][]string{{"-x"}, {"x"}, {"-against", "x"}} {
		_, errs, code := runs(t, args...)
		assert.Equal(t, 2, code)
		assert.NotEmpty(t, errs)
	}
	_, _, code := runs(t, "-help")
	assert.Equal(t, 0, code)
}
