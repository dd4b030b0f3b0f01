//go:build !unix

package reload

import "net"

// writable returns nil: what this process may write is found out by opening it.
func writable(string) error { return nil }

// bindable returns nil if a TCP listener at addr could be opened. It opens one
// for a moment.
func bindable(addr string) error {
	ln, err := net.Listen("tcp", addr)
	if err == nil {
		err = ln.Close()
	}
	return err
}
