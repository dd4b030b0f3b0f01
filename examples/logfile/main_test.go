package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/DeRuina/timberjack"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestMain(m *testing.M) { proxytest.Main(m) }

// lines returns the hosts named in a file of JSON lines.
func lines(t *testing.T, name string) (hosts []string) {
	t.Helper()
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	for line := range bytes.Lines(text) {
		var entry struct{ Host string }
		require.NoError(t, json.Unmarshal(line, &entry), "%s", line)
		hosts = append(hosts, entry.Host)
	}
	return hosts
}

func TestTheLogIsWrittenToAFileThatRotates(t *testing.T) {
	target := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(target.Close)
	dir := t.TempDir()
	file := &timberjack.Logger{Filename: filepath.Join(dir, "access.log"), FileMode: 0o640, MaxSize: 1}
	t.Cleanup(func() { assert.NoError(t, file.Close()) })
	r, err := router(file, target.URL)
	require.NoError(t, err)
	visit := func(host string) {
		r.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "http://"+host+"/", nil))
	}
	visit("before.example")
	require.NoError(t, file.Rotate())
	visit("after.example")

	old, err := filepath.Glob(filepath.Join(dir, "access-*.log"))
	require.NoError(t, err)
	require.Len(t, old, 1)
	assert.Equal(t, []string{"before.example"}, lines(t, old[0]))
	assert.Equal(t, []string{"after.example"}, lines(t, file.Filename))
	info, err := os.Stat(file.Filename)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o640), info.Mode())
}

// A fullDisk is a file whose writes fail.
type fullDisk struct{ tries int }

func (f *fullDisk) Write([]byte) (int, error) {
	f.tries++
	return 0, syscall.ENOSPC
}

func TestAFullDiskFailsNoRequest(t *testing.T) {
	target := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(target.Close)
	disk := new(fullDisk)
	r, err := router(disk, target.URL)
	require.NoError(t, err)
	w := httptest.NewRecorder()
	r.ServeHTTP(w, httptest.NewRequest("GET", "http://app.example/", nil))
	assert.Equal(t, http.StatusNotFound, w.Code)
	assert.Equal(t, "404 page not found\n", w.Body.String())
	assert.Equal(t, 1, disk.tries)
}

func TestATargetThatIsInvalidIsAnError(t *testing.T) {
	_, err := router(nil, "not a target")
	assert.ErrorContains(t, err, "not a target")
}

func TestTheModuleIsCompleteOutsideTheTree(t *testing.T) {
	text, err := os.ReadFile("main.go")
	require.NoError(t, err)
	proxytest.BuildOutside(t, string(text))
}
