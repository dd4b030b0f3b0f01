package serve

import (
	"io"
	"net/http"
	"time"

	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
)

// A source is the body of a request, decoded. It is what a Body of both lanes is read
// from.
//
// One goroutine reads at a time. Others may call interrupt.
type source interface {
	// Read implements io.Reader. The end comes with the last bytes, if it is known. A
	// client that has left is exchange.ErrClientGone; what is malformed is an
	// *h1.Refusal. After a timeout, or an interrupt, which is
	// http.ErrBodyReadAfterClose, reading may go on.
	io.Reader

	// length is that of the body; unknownLength if it is not known.
	length() int64

	// first reads what of the body has come with the head, with the error behind that.
	// It stays as it is until release.
	first() ([]byte, error)

	// giveBack lets the beginning of the body, which has been read, be read again.
	giveBack(data []byte)

	// whole reports whether the body has been read to its end, and pending whether it
	// has neither ended nor failed.
	whole() bool
	pending() bool

	// trailers are those behind the body, once it is whole; valid until release.
	trailers() []h1.Field

	// expect says whether the client waits for 100 Continue before it sends the body, and
	// expected reports that.
	expect(asks bool)
	expected() bool

	// hurry bounds how long the client may send nothing until the response begins,
	// within exchange.BodyStall; 0 means no other bound. answer says that it has begun:
	// the client owes no haste any more.
	hurry(stall time.Duration)
	answer()

	// interrupt wakes the reader, who gets an error, as does everybody until resume,
	// which also ends any bound that was set on reads. stopped reports whether nobody
	// has resumed since, and bounded whether there is such a bound.
	interrupt()
	stopped() bool
	bounded() bool
	resume()

	// short reports whether it can be worth while to wait for what is left of a body
	// that nobody wants, and settle reads that, if it comes. It reports whether that
	// was all.
	short() bool
	settle(patience time.Duration) bool

	// release ends the use of the body. The head, and the trailers, are not needed any
	// more.
	release()
}

// expects reports what becomes of the Expect fields of a request: whether its
// client waits for 100 Continue, or wants what nobody knows (RFC 9110, 10.1.1).
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
