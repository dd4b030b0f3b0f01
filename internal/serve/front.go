package serve

import (
	"time"
	"unsafe"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
)

// A front is a request and its response in one version of HTTP: it reads the
// body, and writes and frames the response. One goroutine uses it at a time,
// except where a method says otherwise. After a failed write all further writes
// fail. What only HTTP/1.x has, such as hijacking and sendfile, are methods of
// front1.
type front interface {
	// major returns the major version of HTTP. text returns the head of the
	// request; its fields are slices of it. body returns its body.
	major() int
	text() []byte
	body() source

	// conn returns the client's connection.
	conn() *conn

	// hasLeft reports whether the client has closed its side. reads says
	// whether the body is being read; otherwise the end may come after bytes of
	// it. hasLeft consumes no bytes, and may be called concurrently. Where
	// sockets cannot be peeked at, it reads ahead until lookBack.
	hasLeft(reads bool) bool
	lookBack()

	// handle lets the sweeper watch the request that a handler answers by w.
	// Nil ends that. client returns the client of that request, for its
	// context. why returns what the client's Why returns.
	handle(w *response)
	client(w *response) exchange.Client
	why() error

	// interim sends an interim response immediately; HTTP/1.0 has none.
	interim(status int, fields []h1.Field) error

	// head begins the final response. It may hold the head back until flush.
	head(h *head) error

	// data sends the next part of the body, or holds it back until flush. It
	// keeps no reference to p. n is how much of p it has taken. piece returns
	// how many bytes of a large body to give it at a time.
	data(p []byte) (n int, err error)
	piece() int

	// flush sends what head and data have held back.
	flush() error

	// end ends the response. trails reports whether the response that has begun
	// can carry trailers.
	end(trailers []h1.Field) error
	trails() bool

	// cut ends an incomplete response in a way that the client notices. sever
	// does so while another goroutine writes, whose writes then fail: it may be
	// called concurrently.
	cut()
	sever()

	// patience limits how long a write may make no progress; 0 means the
	// server's limit. writeBy sets the deadline of writes; the zero time
	// removes it. It may be called concurrently. release removes the deadline
	// too.
	patience(stall time.Duration)
	writeBy(t time.Time) error
	release()

	// next returns what to do with the connection after the response. whole
	// means that the body of the request has been read to its end.
	next(whole bool) step
}

// A head is the head of a final response, without the fields that a front adds.
// Its fields are valid.
type head struct {
	status     int
	fields     []h1.Field
	undated    bool     // no Date is added to fields
	connection []string // the values of Connection; for HTTP/1.x only
	length     int64    // length of the body, or unknownLength
	trails     bool     // trailers may follow a body of known length
	last       bool     // the connection is not to be used again
	unframed   bool     // the body should end with the connection, if that is possible
}

// dated reports whether there is a Date among fields.
func dated(fields []h1.Field) bool {
	for i := range fields {
		if n := fields[i].Name; len(n) == len("date") && header.EqualFold(n, "date") {
			return true
		}
	}
	return false
}

// bytesOf returns s as bytes, which must not be changed.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// unknownLength stands for a body length that is not known yet.
const unknownLength = -1

// hasBody reports whether a response with that status may have a body (RFC
// 9110, 6.4.1).
func hasBody(status int) bool { return status >= 200 && status != 204 && status != 304 }
