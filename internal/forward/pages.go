package forward

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/h1"
)

// checkPages checks the pages by status.
func (c *Config) checkPages() error {
	var errs []error
	for _, status := range slices.Sorted(maps.Keys(c.Pages)) {
		if status < 400 || status > 599 {
			errs = append(errs, fmt.Errorf("field Pages has status %d: want 400 to 599", status))
		}
	}
	return errors.Join(errs...)
}

// Page returns the program's handler that writes the body of responses with
// that status to requests with that Content-Type, or nil.
func (c *Config) Page(status int, contentType string) http.Handler {
	if len(c.Pages) == 0 || !exchange.TakesPage(contentType) {
		return nil
	}
	return c.Pages[status]
}

// Bare removes the fields from res that describe its body.
func Bare(res *h1.Response) {
	res.Fields = slices.DeleteFunc(res.Fields, func(f h1.Field) bool { return exchange.DescribesBody(f.Name) })
}
