//go:build !unix

package main

import "os"

// lock opens the lock file: the control socket alone refuses a second process
// here.
func lock(path string, _ bool) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
}

// syncDir does nothing: directories cannot be synchronized here.
func syncDir(string) error { return nil }
