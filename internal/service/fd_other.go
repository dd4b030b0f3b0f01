//go:build !unix || portable

package service

import (
	"errors"
	"os"
	"syscall"
)

// errNotHere: what cannot be done in portable code.
var errNotHere = errors.New("inherited sockets are not supported on this system")

// inspect: no portable way is known to look at a file descriptor.
func inspect(int) (fault string, err error) { return "", errNotHere }

func closeOnExec(int) {}

// fileOf: no portable way is known to copy a file descriptor that does not make
// it block.
func fileOf(syscall.Conn) (*os.File, error) { return nil, errNotHere }

func openPipe(int) (*os.File, error) { return nil, errNotHere }
