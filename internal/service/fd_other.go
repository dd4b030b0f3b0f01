//go:build !unix || portable

package service

import (
	"errors"
	"os"
	"syscall"
)

// errNotHere means that portable code cannot do this.
var errNotHere = errors.New("inherited sockets are not supported on this system")

// inspect always fails: there is no portable way to inspect a file descriptor.
func inspect(int) (fault string, err error) { return "", errNotHere }

func closeOnExec(int) {}

// fileOf always fails: there is no portable way to copy a file descriptor
// without making it blocking.
func fileOf(syscall.Conn) (*os.File, error) { return nil, errNotHere }

func openPipe(int) (*os.File, error) { return nil, errNotHere }
