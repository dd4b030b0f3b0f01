//go:build !unix

package reload

import "net"

// writable returns nil: only opening a file shows what this process may write.
func writable(string) error { return nil }

// bindable returns nil if a TCP listener at addr can be opened. It opens one
// for a moment.
func bindable(addr string) error {
	ln, err := net.Listen("tcp", addr)
	if err == nil {
		err = ln.Close()
	}
	return err
}
