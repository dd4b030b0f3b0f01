package forward

import (
	"context"
	"net/http"
	"slices"
	"sync/atomic"

	"github.com/hostproxy/hostproxy/internal/limit"
)

// A Handover is what the fast lane knows of an exchange that the full lane
// carries on, as one exchange with one record.
type Handover struct {
	rec     Record
	charged []*limit.Rule // have taken their token
	tried   []*Target     // have failed
	taken   atomic.Bool   // by the first request of its connection
}

// Handover returns what the exchange's other lane has to know. The attempts are
// to be ended.
func (a *Attempts) Handover() *Handover {
	return &Handover{rec: *a.rec, charged: slices.Clone(a.charged), tried: a.triedTargets()}
}

// Untried lets the targets that have failed be asked again: it was the lane that
// they refused.
func (h *Handover) Untried() {
	h.tried, h.rec.Attempts, h.rec.Target = nil, 0, ""
}

type handoverKey struct{}

// NewContext returns ctx, a connection's, carrying h to its first request.
func (h *Handover) NewContext(ctx context.Context) context.Context {
	return context.WithValue(ctx, handoverKey{}, h)
}

// takeOver makes x the exchange that another lane has handed over with q, if it
// has.
func (x *Exchange) takeOver(q *http.Request) {
	h, _ := q.Context().Value(handoverKey{}).(*Handover)
	if h == nil || h.taken.Swap(true) {
		return
	}
	x.charged, x.tried = h.charged, h.tried
	x.Start, x.Queue, x.Dial = h.rec.Start, h.rec.Queue, h.rec.Dial
	x.RequestID = h.rec.RequestID
	x.Target, x.Attempts, x.Retried = h.rec.Target, h.rec.Attempts, h.rec.Retried
}
