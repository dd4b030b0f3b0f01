package reload_test

import (
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/examples/reload"
)

// Also where the tests run as root, which may read all: the thread then looks
// at files as another user.
func TestAFileWithoutPermissionIsRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "proxy.yaml")
	require.NoError(t, os.WriteFile(file, []byte("routes: {a.localhost: localhost:1}"), 0))
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and it ends with the goroutine
		if os.Getuid() == 0 {
			_ = syscall.Setfsuid(65534)
		}
		_, err := reload.Load(file)
		done <- err
	}()
	err := <-done
	assert.ErrorContains(t, err, file+": the file cannot be read: ")
	assert.ErrorContains(t, err, "permission denied: let the user of this process read it (chmod, chown)")
}

func TestANamedPipeThatNobodyReadsIsNoLog(t *testing.T) {
	r := start(t, &reload.Proxy{}, plain+"routes: {a.localhost: localhost:1}\n")
	require.NoError(t, syscall.Mkfifo(filepath.Join(filepath.Dir(r.File), "pipe"), 0o600))
	write(t, r.File, "%s", plain+"log: {output: pipe}\nroutes: {a.localhost: localhost:1}\n")
	assert.ErrorContains(t, r.next(), "log.output: open "+filepath.Join(filepath.Dir(r.File), "pipe"))
	write(t, r.File, "%s", plain+"routes: {a.localhost: localhost:2}\n")
	assert.NoError(t, r.next())
}
