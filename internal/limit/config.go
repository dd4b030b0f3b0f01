package limit

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
)

// Bounds of a Config.
const (
	maxRate = 1e6                  // above, rounding the interval to nanoseconds shows
	maxFill = 366 * 24 * time.Hour // times in nanoseconds have room for centuries
	maxKeys = 1 << 26              // 1 GiB
)

// A Config says what the share of each client is. Only Rate is required.
type Config struct {
	// Name stands for the limit in header fields, where it should be unique. It
	// is printable ASCII without quotes and backslashes. "" means "default".
	Name string

	// Rate is the requests per second that each client may go on making, at
	// most 1,000,000. It may be a fraction.
	Rate float64

	// Burst is the requests that a client that was quiet may make at once. 0
	// means a second's worth, but at least 1. Burst / Rate is at most 366 days.
	Burst int

	// MaxKeys is about how many clients are told apart among those that have
	// not got all their tokens back. It is rounded up to 8 times a power of
	// two; 0 means 1,048,576, and the most is 67,108,864. When so many are
	// short of tokens, newcomers share buckets with them; as chance decides who
	// shares, one in twenty does with half as many. Sharing is felt by a
	// newcomer only if the fullest of eight buckets has no token left, which
	// takes a flood from more clients than MaxKeys that asks above MaxKeys ×
	// Rate per second all together, or a Burst of 1.
	MaxKeys int
}

// Validate returns all that is wrong with c as one error, each fault with the
// name of its field, or nil.
func (c Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if strings.ContainsFunc(c.Name, unprintable) {
		fault("Name is %q, want printable ASCII without quotes or backslashes", c.Name)
	}
	if c.Burst < 0 {
		fault("Burst is %d, want 0 (a second's worth) or more", c.Burst)
	}
	if c.MaxKeys < 0 || c.MaxKeys > maxKeys {
		fault("MaxKeys is %d, want 0 (the default) to %d", c.MaxKeys, maxKeys)
	}
	switch {
	case !(c.Rate > 0 && c.Rate <= maxRate): // catches NaN
		fault("Rate is %v, want requests per second, above 0 and up to %d, or 0 with MaxInFlight", c.Rate, int(maxRate))
	case c.Burst >= 0 && float64(c.burst())/c.Rate > maxFill.Seconds():
		fault("Burst is %d and Rate is %v, want Burst / Rate, the time to fill a bucket, of at most %v", c.burst(), c.Rate, maxFill)
	}
	return errors.Join(faults...)
}

// unprintable reports whether r needs an escape in a String (RFC 9651, 3.3.3),
// or cannot be in one.
func unprintable(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }

func (c Config) name() string { return cmp.Or(c.Name, "default") }
func (c Config) burst() int   { return cmp.Or(c.Burst, int(math.Ceil(c.Rate))) }
func (c Config) maxKeys() int { return cmp.Or(c.MaxKeys, 1<<20) }

// interval returns the time in which one token comes, rounded up: a client may
// get a little less than Rate, never more.
func (c Config) interval() time.Duration { return time.Duration(math.Ceil(1e9 / c.Rate)) }

// depth returns the time in which an empty bucket fills.
func (c Config) depth() time.Duration { return c.interval() * time.Duration(c.burst()) }
