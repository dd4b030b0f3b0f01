package exchange

import (
	"net/http"
	"sync/atomic"

	"github.com/hostproxy/hostproxy/internal/header"
	"github.com/hostproxy/hostproxy/internal/limit"
)

// A Handover is what the fast lane knows of an exchange that the handler lane
// continues. It remains one exchange with one record.
type Handover struct {
	Record  Record
	Charged []*limit.Rule // rules that have taken their token
	Tried   []string      // keys of the targets that have failed
	Answer  *Answer       // a response that only has to be written; nil if targets are to be asked

	Begun bool                 // the hook Begin has been called
	Set   []header.Replacement // headers set by that hook

	taken atomic.Bool // set by the first exchange of the request
}

// Untried allows the failed targets to be asked again: they refused only the
// fast lane.
func (h *Handover) Untried() {
	h.Tried, h.Record.Attempts, h.Record.Target = nil, 0, ""
}

type handoverKey struct{}

// takeOver makes x continue the exchange that another lane has handed over with
// q, if there is one.
func (x *Exchange) takeOver(q *http.Request) {
	h, _ := q.Context().Value(handoverKey{}).(*Handover)
	if h == nil || h.taken.Swap(true) {
		return
	}
	x.Charged, x.Tried, x.Answer = h.Charged, h.Tried, h.Answer
	x.Pattern, x.FirstByte = h.Record.Pattern, h.Record.FirstByte
	x.Start, x.Queue, x.Dial = h.Record.Start, h.Record.Queue, h.Record.Dial
	x.RequestID = h.Record.RequestID
	x.Target, x.Attempts, x.Retried = h.Record.Target, h.Record.Attempts, h.Record.Retried
	x.Timeline, x.Value, x.Set, x.begun = h.Record.Timeline, h.Record.Value, h.Set, h.Begun
}
