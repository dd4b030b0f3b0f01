package limit

import (
	"strconv"
	"time"
)

// A Decision is the result for one request, with the state of its bucket for
// the client.
type Decision struct {
	OK        bool          // the request may be served, and has taken a token
	Remaining int           // tokens left: requests that may follow immediately
	Retry     time.Duration // time until there is one token more than Remaining; above 0
	Reset     time.Duration // time until the bucket is full
}

// AppendRetryAfter appends the value of a Retry-After field (RFC 9110, 10.2.3)
// for a refused request: seconds, rounded up, at least 1.
func (d Decision) AppendRetryAfter(b []byte) []byte {
	return strconv.AppendInt(b, seconds(d.Retry), 10)
}

// AppendRateLimit appends the value of a RateLimit field
// (draft-ietf-httpapi-ratelimit-headers-11, 4): r=Remaining, and t=Retry in
// seconds, the time in which the client can use no more. In a refusal, t equals
// Retry-After (6). c must be valid.
func (c Config) AppendRateLimit(b []byte, d Decision) []byte {
	b = c.appendItem(b, ";r=", int64(d.Remaining))
	return appendParameter(b, ";t=", seconds(d.Retry))
}

// AppendPolicy appends the value of a RateLimit-Policy field
// (draft-ietf-httpapi-ratelimit-headers-11, 3): q=Burst, and w, the seconds in
// which an empty bucket fills. It is the same for all responses. c must be
// valid.
func (c Config) AppendPolicy(b []byte) []byte {
	b = c.appendItem(b, ";q=", int64(c.burst()))
	// the most that interval adds by rounding: a burst of 3 at a rate of 3 has
	// w=1, not 2
	rounding := time.Duration(c.burst())
	return appendParameter(b, ";w=", seconds(c.depth()-rounding))
}

// appendItem appends the name of the limit as a String (RFC 9651, 3.3.3) with
// its first parameter.
func (c Config) appendItem(b []byte, parameter string, value int64) []byte {
	b = append(b, '"')
	b = append(b, c.name()...)
	b = append(b, '"')
	return appendParameter(b, parameter, value)
}

func appendParameter(b []byte, parameter string, value int64) []byte {
	return strconv.AppendInt(append(b, parameter...), value, 10)
}

// seconds rounds up, so that a client that waits so long is not too early.
func seconds(d time.Duration) int64 {
	return int64((d + time.Second - 1) / time.Second)
}
