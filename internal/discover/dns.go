package discover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Resolver looks up names, as *net.Resolver does.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

// Limits for DNS. The standard resolver does not return the TTL of an answer,
// so sources ask again after a fixed time.
const (
	MinInterval   = time.Second
	lookupTimeout = 10 * time.Second
)

// Hosts returns a source of the addresses of u's host: one endpoint for each,
// with the same URL. It looks up every interval, which is at least MinInterval.
func Hosts(r Resolver, u *url.URL, interval time.Duration) Source {
	port := cmp.Or(u.Port(), map[string]string{"https": "443"}[u.Scheme], "80")
	return every(interval, func(ctx context.Context) ([]Endpoint, error) {
		addrs, err := r.LookupNetIP(ctx, "ip", u.Hostname())
		if err != nil {
			return nil, err
		}
		var es []Endpoint
		for _, a := range addrs {
			if usable(a) {
				es = append(es, Endpoint{Target: u.String(), Addr: net.JoinHostPort(a.Unmap().String(), port)})
			}
		}
		if len(es) == 0 {
			return nil, fmt.Errorf("%q has no usable address: unspecified and multicast addresses are skipped", u.Hostname())
		}
		return es, nil
	})
}

// Services returns a source of the targets in the SRV records of
// _service._proto.name: those with the lowest priority value, with their
// weights. It looks up every interval, which is at least MinInterval.
func Services(r Resolver, scheme, service, proto, name string, interval time.Duration) Source {
	return every(interval, func(ctx context.Context) ([]Endpoint, error) {
		_, records, err := r.LookupSRV(ctx, service, proto, name)
		if err != nil && len(records) == 0 {
			return nil, err
		}
		records = slices.DeleteFunc(records, func(s *net.SRV) bool { return s.Port == 0 || strings.Trim(s.Target, ".") == "" })
		if len(records) == 0 {
			return nil, errors.New("no SRV record has both a target and a port")
		}
		first := slices.MinFunc(records, func(a, b *net.SRV) int { return cmp.Compare(a.Priority, b.Priority) }).Priority
		var es []Endpoint
		for _, s := range records {
			if s.Priority == first {
				host := net.JoinHostPort(strings.TrimSuffix(s.Target, "."), strconv.Itoa(int(s.Port)))
				es = append(es, Endpoint{Target: scheme + "://" + host, Weight: weight(s)})
			}
		}
		return es, nil
	})
}

// weight returns the weight for a record. Its 0 means a very small chance (RFC
// 2782), not none.
func weight(s *net.SRV) int { return max(1, 10*int(s.Weight)) }

// every returns a source that looks up immediately, and then at intervals. It
// returns the error of a failed look-up: then Run reports it, and restarts the
// source.
func every(interval time.Duration, lookUp func(context.Context) ([]Endpoint, error)) Source {
	interval = max(interval, MinInterval)
	return func(ctx context.Context, publish func([]Endpoint)) error {
		for {
			es, err := bounded(ctx, lookUp)
			if err != nil {
				return err
			}
			publish(es)
			if sleep(ctx, interval); ctx.Err() != nil {
				return nil
			}
		}
	}
}

func bounded(ctx context.Context, lookUp func(context.Context) ([]Endpoint, error)) ([]Endpoint, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	return lookUp(ctx)
}
