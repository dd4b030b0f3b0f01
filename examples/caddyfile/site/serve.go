package site

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/hostproxy/hostproxy"
)

// Serve runs servers until ctx is done or one of them ends. It returns their
// errors, joined.
func Serve(ctx context.Context, servers ...*hostproxy.Server) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(servers))
	var all sync.WaitGroup
	for i, s := range servers {
		all.Go(func() {
			defer cancel()
			errs[i] = s.Serve(ctx, nil, nil)
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// Hosts returns a function for TLS.Host that reads a map.
func Hosts(settings map[string]hostproxy.HostTLS) func(string) (hostproxy.HostTLS, error) {
	return func(pattern string) (hostproxy.HostTLS, error) { return settings[pattern], nil }
}

// Must returns v, or panics with err. Use it for values that were checked when
// the program was written.
func Must[T any](v T, err error) T {
	if err != nil {
		panic(fmt.Sprintf("site: %v", err))
	}
	return v
}
