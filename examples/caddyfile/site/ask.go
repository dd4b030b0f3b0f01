package site

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/hostproxy/hostproxy"
)

// An Ask asks a server of yours before on-demand certificates are ordered. It
// sends a GET of URL with the parameter domain. Its method HostPolicy is for
// TLS.HostPolicy.
type Ask struct{ URL string }

// HostPolicy allows a certificate if the status is 200. Any other status from
// 300 to 499 refuses it. A status of 500 and above, or no answer within 5 s,
// changes nothing.
func (a *Ask) HostPolicy(ctx context.Context, host string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	u, err := url.Parse(a.URL)
	if err != nil {
		return fmt.Errorf("site: %w", err)
	}
	query := u.Query()
	query.Set("domain", host)
	u.RawQuery = query.Encode()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return fmt.Errorf("site: %w", err)
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(q)
	if err != nil {
		return fmt.Errorf("site: asking about a host: %w", err)
	}
	_, _ = io.CopyN(io.Discard, res.Body, 4<<10)
	res.Body.Close()
	switch {
	case res.StatusCode == http.StatusOK:
		return nil
	case res.StatusCode >= 500:
		return fmt.Errorf("site: asking about a host: %s answers %s", u.Host, res.Status)
	}
	return fmt.Errorf("%w: %s answers %s", hostproxy.ErrHostNotAllowed, u.Host, res.Status)
}
