package exchange

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/hostproxy/hostproxy/internal/header"
)

// Hooks are functions of the program that are called at the beginning of an
// exchange and of each of its attempts. A nil *Hooks has none.
type Hooks struct {
	Begin   func(*Beginning) // called at the beginning of exchanges; may be nil
	Attempt func(*Beginning) // called at the beginning of attempts; may be nil

	Times  bool        // records get a Timeline
	Number string      // the header of identifiers, which hooks cannot set; "" if there is none
	Failed func(error) // called for a hook that has failed
}

// Begins reports whether there is a hook for exchanges.
func (h *Hooks) Begins() bool { return h != nil && h.Begin != nil }

// Tries reports whether there is a hook for attempts.
func (h *Hooks) Tries() bool { return h != nil && h.Attempt != nil }

// Timed reports whether records get a Timeline.
func (h *Hooks) Timed() bool { return h != nil && h.Times }

// A Said is the header of a client's request.
type Said interface {
	// Value returns the values of a field, joined by commas, or "".
	Value(name string) string
}

// Fields are the header of a client's request in the handler lane.
type Fields http.Header

// Value implements Said.
func (f Fields) Value(name string) string {
	values := http.Header(f).Values(name)
	if len(values) == 1 {
		return values[0]
	}
	return strings.Join(values, ", ")
}

// A Beginning is what a hook sees of an exchange or an attempt that begins. It
// may be reused for the next one.
type Beginning struct {
	Record  *Record
	Attempt *Attempt // nil at the beginning of an exchange
	Face    any      // its public form, which is kept

	said Said
	own  []header.Replacement // of the exchange
	tell []header.Replacement // of the attempt
	set  *[]header.Replacement
	num  string
	err  error // error of the first SetHeader that is not allowed
}

// A FieldError is a header that a hook may not set.
type FieldError struct{ Hook, Why string }

// Error returns the hook and the rule.
func (e *FieldError) Error() string { return "Router." + e.Hook + ": " + e.Why }

// Begin calls the hook for the exchange with that record. It returns the
// headers that the hook has set, or why the exchange fails.
func (b *Beginning) Begin(h *Hooks, r *Record, said Said) ([]header.Replacement, *Failure) {
	b.own = b.own[:0]
	b.Record, b.Attempt, b.set = r, nil, &b.own
	if err := b.call("Begin", h.Begin, h, said); err != nil {
		return nil, &Failure{Op: "read", Side: SideProxy, Status: http.StatusInternalServerError, Reason: "proxy_internal_error", Err: err}
	}
	return b.own, nil
}

// BeginAttempt calls the hook for the latest attempt in the record. It returns
// set with the headers that the hook has set, or why the attempt fails.
func (b *Beginning) BeginAttempt(h *Hooks, r *Record, said Said, set []header.Replacement) ([]header.Replacement, error) {
	b.tell = append(b.tell[:0], set...)
	b.Record, b.Attempt, b.set = r, r.Latest(), &b.tell
	err := b.call("BeginAttempt", h.Attempt, h, said)
	return b.tell, err
}

func (b *Beginning) call(name string, hook func(*Beginning), h *Hooks, said Said) (err error) {
	b.said, b.num, b.err = said, h.Number, nil
	func() {
		defer Contain(name, &err)
		hook(b)
	}()
	b.Record, b.Attempt, b.said = nil, nil, nil
	if err == nil && b.err != nil {
		err = &FieldError{name, b.err.Error()}
	}
	if err != nil && h.Failed != nil {
		h.Failed(err)
	}
	return err
}

// Header returns the values of a header of the request, joined by commas, as
// the target gets them if that is already known.
func (b *Beginning) Header(name string) string {
	switch {
	case b.num != "" && header.SameVariable(name, b.num):
		return b.Record.RequestID
	case header.EqualFold(name, "Host"): // not every lane has it among the fields
		return b.Record.Host
	case header.EqualFold(name, "Transfer-Encoding"): // likewise; it is not passed on
		return ""
	}
	for i := range *b.set {
		if r := &(*b.set)[i]; header.SameVariable(r.Name, name) {
			return r.Value
		}
	}
	return b.said.Value(name)
}

// Replace sends r to the target in place of the client's header. If r is not
// allowed, the hook fails.
func (b *Beginning) Replace(r header.Replacement) {
	if err := b.check(&r); err != nil {
		if b.err == nil {
			b.err = err
		}
		return
	}
	r.Name = http.CanonicalHeaderKey(r.Name)
	for i := range *b.set {
		if header.SameVariable((*b.set)[i].Name, r.Name) {
			(*b.set)[i] = r
			return
		}
	}
	*b.set = append(*b.set, r)
}

func (b *Beginning) check(r *header.Replacement) error {
	switch {
	case !header.ValidName(r.Name) || header.Classify(r.Name)&^header.NoTrailer != 0:
		return fmt.Errorf("header %q is not allowed: want a header such as Traceparent, but not Host, Expect or Via, and no framing, hop-by-hop or forwarding header", r.Name)
	case b.num != "" && header.SameVariable(r.Name, b.num):
		return fmt.Errorf("header %q is not allowed: it carries the identifier of Router.RequestID; set only one of them", r.Name)
	case !header.ValidValue(r.Value):
		return fmt.Errorf("header %q has the value %q: want one without control characters", r.Name, r.Value)
	}
	return nil
}

// Announce calls the Begin hook for x, the exchange of q, unless another lane
// has done so. It returns why the exchange fails, or nil.
func (x *Exchange) Announce(h *Hooks, q *http.Request) *Failure {
	x.Hooks = h
	if x.begun || !h.Begins() {
		return nil
	}
	var fail *Failure
	x.Set, fail = x.opening().Begin(h, &x.Record, Fields(q.Header))
	return fail
}

// AnnounceAttempt calls the hook for the latest attempt of x. It returns the
// headers that the hook has set, or why the attempt fails.
func (x *Exchange) AnnounceAttempt(q *http.Request) ([]header.Replacement, error) {
	set, err := x.opening().BeginAttempt(x.Hooks, &x.Record, Fields(q.Header), nil)
	if err != nil {
		return nil, &AttemptError{Op: "read", Err: err}
	}
	return set, nil
}

func (x *Exchange) opening() *Beginning {
	if x.beginning == nil {
		x.beginning = new(Beginning)
	}
	return x.beginning
}

// Replace returns q with set in place of the client's own headers of these
// names, in every spelling and in trailers too.
func Replace(q *http.Request, set []header.Replacement) *http.Request {
	names := make([]string, len(set))
	for i := range set {
		names[i] = set[i].Name
	}
	q = Withhold(q, names...)
	header.Replace(q.Header, set)
	return q
}
