//go:build !hostproxy

package main

import (
	"context"
	"errors"
	"net"
)

func (s *server) serveHostproxy(context.Context, net.Listener) error {
	return errors.New("built without hostproxy")
}
