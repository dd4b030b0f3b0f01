package serve

import (
	"io"
	"net/http"
	"time"

	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
)

// A source is the decoded body of a request. The Body of both lanes reads from
// it.
//
// One goroutine reads at a time. Others may call interrupt.
type source interface {
	// Read implements io.Reader. It returns io.EOF with the last bytes if the
	// end is known, exchange.ErrClientGone if the client has left, and an
	// *h1.Refusal if the body is malformed. Reading may go on after a timeout,
	// and after an interrupt and resume. An interrupted Read returns
	// http.ErrBodyReadAfterClose.
	io.Reader

	// length returns the length of the body, or unknownLength.
	length() int64

	// first reads the part of the body that came with the head, and the error
	// after it. The bytes are valid until release.
	first() ([]byte, error)

	// giveBack makes data, the beginning of the body, be read again.
	giveBack(data []byte)

	// whole reports whether the body has been read to its end, and pending
	// whether it has neither ended nor failed.
	whole() bool
	pending() bool

	// trailers returns the trailers, once the body is whole; valid until
	// release.
	trailers() []h1.Field

	// expect sets whether the client waits for 100 Continue before it sends the
	// body. expected reports it.
	expect(asks bool)
	expected() bool

	// hurry limits how long the client may send nothing until the response
	// begins. 0 means exchange.BodyStall, which is also the maximum. answer
	// says that the response has begun: the client may pause.
	hurry(stall time.Duration)
	answer()

	// readBy sets the deadline of reads; the zero time removes it. It may be
	// called concurrently.
	readBy(t time.Time) error

	// interrupt wakes the reader. Reads fail until resume, which also removes a
	// read deadline. stopped reports whether interrupt was called since resume,
	// and bounded whether a read deadline is set.
	interrupt()
	stopped() bool
	bounded() bool
	resume()

	// short reports whether the rest of an unread body may be worth reading.
	// settle discards the rest, waits up to patience for each part of it, and
	// reports whether the body has been read to its end.
	short() bool
	settle(patience time.Duration) bool

	// release ends the use of the body, its head and its trailers.
	release()
}

// expects reports whether the client waits for 100 Continue, and whether it
// expects anything else (RFC 9110, 10.1.1).
func expects(r *h1.Request) (asks, unknown bool) {
	if r.Unusual&h1.UnusualExpect == 0 || r.Minor == 0 {
		return false, false
	}
	for i := range r.Fields {
		if f := &r.Fields[i]; len(f.Name) == len("Expect") && header.EqualFold(f.Name, "expect") {
			asks = true
			unknown = unknown || !header.EqualFold(f.Value, "100-continue")
		}
	}
	return asks && r.Framing() != h1.NoBody, unknown
}

var errExpectation = &h1.Refusal{Status: http.StatusExpectationFailed, Reason: "Expect is not 100-continue"}
