package limit

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"
)

// Limits of a Config.
const (
	maxRate = 1e6                  // above it, the rounding of interval to nanoseconds matters
	maxFill = 366 * 24 * time.Hour // times in nanoseconds do not overflow for centuries
	maxKeys = 1 << 26              // 1 GiB
)

// A Config says how many requests each client may make. Only Rate is required.
type Config struct {
	// Name names the limit in header fields, where it should be unique. It is
	// printable ASCII without quotes and backslashes. "" means "default".
	Name string

	// Rate is how many requests per second each client may make in the long
	// run, at most 1,000,000. It may be a fraction.
	Rate float64

	// Burst is how many requests a client may make at once after a pause. 0
	// means the requests of a second, but at least 1. Burst / Rate is at most
	// 366 days.
	Burst int

	// MaxKeys is about how many clients without a full bucket have a bucket of
	// their own. It is rounded up to 8 times a power of two; 0 means 1,048,576,
	// and the maximum is 67,108,864. When so many buckets are not full, new
	// clients share them; since chance decides which, one new client in twenty
	// shares already at half as many. A new client notices that only if the
	// fullest of eight buckets has no token left. That requires a Burst of 1,
	// or a flood from more clients than MaxKeys with more than MaxKeys × Rate
	// requests per second together.
	MaxKeys int
}

// Validate returns all faults of c as one error that names the fields, or nil.
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

// unprintable reports whether r requires an escape in a String (RFC 9651,
// 3.3.3), or is not allowed in one.
func unprintable(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' }

func (c Config) name() string { return cmp.Or(c.Name, "default") }
func (c Config) burst() int   { return cmp.Or(c.Burst, int(math.Ceil(c.Rate))) }
func (c Config) maxKeys() int { return cmp.Or(c.MaxKeys, 1<<20) }

// interval returns the time for one new token, rounded up: a client may get a
// little less than Rate, but never more.
func (c Config) interval() time.Duration { return time.Duration(math.Ceil(1e9 / c.Rate)) }

// depth returns the time in which an empty bucket fills.
func (c Config) depth() time.Duration { return c.interval() * time.Duration(c.burst()) }
