//go:build !unix

package main

import "os"

// lock opens the lock file. On this system, only the control socket refuses a
// second process.
func lock(path string, _ bool) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
}

// syncDir does nothing: this system cannot synchronize directories.
func syncDir(string) error { return nil }
