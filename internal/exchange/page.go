package exchange

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/hostproxy/hostproxy/internal/header"
)

// A Page is shown to clients instead of a target's response.
type Page struct {
	Status      int
	ContentType string
	Body        []byte
	RetryAfter  time.Duration // 0 means no Retry-After
}

// Check returns an error if p cannot be a response.
func (p *Page) Check() error {
	switch {
	case p.Status < 200 || p.Status > 599 || p.Status == http.StatusNoContent || p.Status == http.StatusNotModified:
		return fmt.Errorf("Page.Status is %d: want 200 to 599, except 204 and 304", p.Status)
	case !header.ValidValue(p.ContentType) || strings.TrimSpace(p.ContentType) != p.ContentType:
		return fmt.Errorf("Page.ContentType is %q: want a media type such as text/html", p.ContentType)
	}
	return nil
}

// Reply answers q with p. Fields set by handlers around us stay, except those
// that describe a body.
func (p *Page) Reply(w http.ResponseWriter, q *http.Request) {
	h := w.Header()
	describe(h, p.ContentType, len(p.Body))
	w.WriteHeader(p.Status)
	if q.Method != http.MethodHead {
		w.Write(p.Body)
	}
}
