//go:build unix

package main

import (
	"fmt"
	"os"
	"syscall"
)

// lock takes the lock file, or returns an error if another process has it. A
// process that takes over waits for the lock in the background.
func lock(path string, takesOver bool) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if takesOver {
		// yields when the old process ends
		go func() { _ = syscall.Flock(int(f.Fd()), syscall.LOCK_EX) }()
		return f, nil
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another proxy runs with this directory: stop it, or choose another one by -dir (lock %q: %w)", path, err)
	}
	return f, nil
}

// syncDir makes a rename in dir permanent.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
