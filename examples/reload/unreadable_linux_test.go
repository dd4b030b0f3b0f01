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

// Works for root too, which may read all files: a thread checks the files as
// another user.
func TestAFileWithoutPermissionIsRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "proxy.yaml")
	require.NoError(t, os.WriteFile(file, []byte("routes: {a.localhost: localhost:1}"), 0))
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
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

func TestANamedPipeWithoutAReaderIsRefusedAsALog(t *testing.T) {
	r := start(t, &reload.Proxy{}, plain+"routes: {a.localhost: localhost:1}\n")
	require.NoError(t, syscall.Mkfifo(filepath.Join(filepath.Dir(r.File), "pipe"), 0o600))
	write(t, r.File, "%s", plain+"log: {output: pipe}\nroutes: {a.localhost: localhost:1}\n")
	assert.ErrorContains(t, r.next(), "log.output: open "+filepath.Join(filepath.Dir(r.File), "pipe"))
	write(t, r.File, "%s", plain+"routes: {a.localhost: localhost:2}\n")
	assert.NoError(t, r.next())
}

// as runs do as another user, in a thread that ends afterwards.
func as(uid uintptr, do func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if os.Getuid() == 0 {
			_, _, _ = syscall.RawSyscall(syscall.SYS_SETRESUID, uid, uid, uid)
		}
		do()
	}()
	<-done
}

func TestCheckRefusesALogThatThisUserMayNotWrite(t *testing.T) {
	// t.TempDir is in a directory that only its owner may search
	dir, err := os.MkdirTemp("", "log")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o555))
	conf := filepath.Join(t.TempDir(), "proxy.yaml")
	write(t, conf, "%s", plain+"log: {output: "+dir+"/x.log}\nroutes: {a.localhost: localhost:1}\n")
	c, err := reload.Load(conf)
	require.NoError(t, err)
	as(65534, func() { _, err = reload.Machine(c) })
	assert.ErrorContains(t, err, "log.output: \""+dir+"\": permission denied: let the user of this process write there (chmod, chown)")
}

func TestCheckOnlyNotesAPortThatThisUserMayNotOpen(t *testing.T) {
	limit, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	require.NoError(t, err)
	c, err := reload.LoadText("proxy.yaml", []byte("listeners: [{role: plain, addr: \"127.0.0.1:1\"}]\nroutes: {a.localhost: localhost:1}\n"))
	require.NoError(t, err)
	var notes string
	as(65534, func() { notes, err = reload.Machine(c) })
	require.NoError(t, err)
	note := "note: proxy.yaml:1:27: listeners[0].addr: \"127.0.0.1:1\" is not allowed for this user: a port below 1024 needs a capability"
	if string(limit) == "0\n" { // every user may open every port
		assert.NotContains(t, notes, note)
		return
	}
	assert.Contains(t, notes, note)
}
