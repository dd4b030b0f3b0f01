package forward

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
)

// A Probe says how a target is probed: by connecting to it, by a GET of Path,
// or by the gRPC health protocol.
type Probe struct {
	Path     string // with query; "" means to connect only
	Host     string // of the request; "" means the target's host
	Header   http.Header
	Statuses []int  // of a healthy target; nil means 200 to 399
	GRPC     bool   // instead of Path; requires HTTP/2 to the target
	Service  string // with GRPC; "" means the server as a whole
}

func (p *Probe) check() error {
	var errs []error
	if p.Path != "" && (!strings.HasPrefix(p.Path, "/") || !h1.ValidTarget(p.Path)) {
		errs = append(errs, fmt.Errorf("Health.Path is %q: want a path that begins with a slash", p.Path))
	}
	if p.Path != "" && p.GRPC {
		errs = append(errs, errors.New("Health.Path cannot be combined with Health.GRPC: set only one of them"))
	}
	if p.Service != "" && !p.GRPC {
		errs = append(errs, errors.New("Health.Service requires Health.GRPC: set both or neither"))
	}
	if p.Host != "" && !h1.ValidHost(p.Host) {
		errs = append(errs, fmt.Errorf("Health.Host is %q: want a host, such as app.example.com", p.Host))
	}
	for k, values := range p.Header {
		if !h1.ValidToken(k) || header.Classify(k)&(header.HopByHop|header.Framing|header.Host) != 0 {
			errs = append(errs, fmt.Errorf("Health.Header has %q: want the name of a header, but no framing or hop-by-hop header and not Host: set Health.Host instead", k))
		}
		for _, v := range values {
			if !header.ValidValue(v) {
				errs = append(errs, fmt.Errorf("Health.Header[%q] has the value %q: want one without control characters", k, v))
			}
		}
	}
	for _, s := range p.Statuses {
		if s < 200 || s > 599 {
			errs = append(errs, fmt.Errorf("Health.Statuses has %d: want 200 to 599", s))
		}
	}
	return errors.Join(errs...)
}

// checkTarget returns why t cannot be probed by p, or nil.
func (p *Probe) checkTarget(t *Target) error {
	if p.GRPC && t.h2 == nil && t.Pool != nil {
		return fmt.Errorf("target %s: Health.GRPC requires HTTP/2: write h2c://%s, or https://%[2]s over TLS", t.Name, cmp.Or(t.URL.Host, "host:port"))
	}
	return nil
}

// asks returns the func that probes t.
func (p *Probe) asks(f *Forwarder, t *Target, connect func(context.Context) error) func(context.Context) error {
	switch {
	case p.GRPC:
		return func(ctx context.Context) error { return p.callGRPC(ctx, t) }
	case p.Path != "":
		return func(ctx context.Context) error { return p.get(ctx, f, t) }
	}
	return connect
}

// maxProbeBody limits how much of a response is read, which lets its connection
// be kept.
const maxProbeBody = 64 << 10

// get probes t by a GET of Path.
func (p *Probe) get(ctx context.Context, f *Forwarder, t *Target) error {
	req, err := p.request(ctx, t, http.MethodGet, p.Path)
	if err != nil {
		return err
	}
	res, err := f.Do(t, req, relayNothing)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, _ = io.CopyN(io.Discard, res.Body, maxProbeBody)
	return p.judge(res.StatusCode)
}

func (p *Probe) judge(status int) error {
	ok := len(p.Statuses) == 0 && status >= 200 && status < 400
	for _, s := range p.Statuses {
		ok = ok || s == status
	}
	if !ok {
		return fmt.Errorf("the health check was answered with status %d", status)
	}
	return nil
}

func (p *Probe) request(ctx context.Context, t *Target, method, path string) (*http.Request, error) {
	u := &url.URL{Scheme: t.URL.Scheme, Host: t.URL.Host}
	switch u.Scheme {
	case "unix":
		u.Scheme, u.Host = "http", "localhost"
	case "h2c":
		u.Scheme = "http"
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String()+path, nil)
	if err != nil {
		return nil, err
	}
	for k, v := range p.Header {
		req.Header[http.CanonicalHeaderKey(k)] = v
	}
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", exchange.Name+"-health")
	}
	if p.Host != "" {
		req.Host = p.Host
	}
	return req, nil
}

func relayNothing(int, http.Header) error { return nil }

// callGRPC calls grpc.health.v1.Health/Check of t. Both messages have one
// field, number 1: the name of the service, and its status.
func (p *Probe) callGRPC(ctx context.Context, t *Target) error {
	req, err := p.request(ctx, t, http.MethodPost, "/grpc.health.v1.Health/Check")
	if err != nil {
		return err
	}
	var message []byte
	if p.Service != "" {
		message = binary.AppendUvarint([]byte{1<<3 | 2}, uint64(len(p.Service)))
		message = append(message, p.Service...)
	}
	frame := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
	req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(frame)), int64(len(frame))
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	c := t.h2
	if c == nil {
		c = t.client
	}
	res, err := c.Do(req, relayNothing)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxProbeBody))
	if err != nil {
		return err
	}
	// one of them is set: the header only without a message
	code := res.Trailer.Get("Grpc-Status") + res.Header.Get("Grpc-Status")
	if res.StatusCode != http.StatusOK || code != "0" {
		return fmt.Errorf("the health check was answered with status %d, grpc-status %q", res.StatusCode, code)
	}
	if status := servingStatus(body); status != 1 {
		return fmt.Errorf("the health check was answered with serving status %d: want 1 (SERVING)", status)
	}
	return nil
}

// servingStatus returns field 1 of the HealthCheckResponse in a frame, 0 if it
// has none, and a negative number if the frame is invalid.
func servingStatus(frame []byte) int64 {
	if len(frame) < 5 || frame[0] != 0 || int64(binary.BigEndian.Uint32(frame[1:])) != int64(len(frame)-5) {
		return -1
	}
	status := int64(0)
	for m := frame[5:]; len(m) > 0; {
		if m[0] != 1<<3 {
			return -1 // the message has no other field
		}
		v, n := binary.Uvarint(m[1:])
		if n <= 0 || v > 1<<31 {
			return -1
		}
		status, m = int64(v), m[1+n:]
	}
	return status
}
