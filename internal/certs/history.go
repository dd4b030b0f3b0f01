package certs

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"path"
	"slices"
	"time"

	"github.com/caddyserver/certmagic"
)

const (
	// failed validations of a host at one CA within failureWindow; Let's
	// Encrypt allows five
	maxFailures    = 4
	failureWindow  = time.Hour        //
	historyTimeout = 2 * time.Second  // for one operation, so that it delays nothing for long
	maxRecord      = 4 << 10          // bytes of a record that is read
	historySkew    = 10 * time.Second // clock difference of processes that share storage
	// times further in the future are ignored; nearer ones come from before the
	// clock was set back
	historyAhead = 24 * time.Hour
)

// A history is the stored record of a host's attempts at one CA. It survives
// restarts and is shared by a cluster. What cannot be read or written is
// ignored.
type history struct {
	storage *boundedStorage
	key     string
}

// A record is the content of a history. The zero value is not stored.
type record struct {
	// Failed holds the times of failed validations within the last hour. An
	// attempt in flight counts, and so does one with an unknown result.
	Failed []time.Time `json:"failed,omitempty"`

	// Failures counts consecutive failed validations, probes included.
	Failures int `json:"failures,omitempty"`

	// Worked is the type of challenge that worked last, unless that is the
	// first choice.
	Worked string `json:"worked,omitempty"`

	ahead bool // some times of Failed were in the future, and count as now
}

// historyOf returns the history of a host:
// hostproxy/attempts/<issuer>/<host>.json.
func (a *authority) historyOf(name string) history {
	key := path.Join("hostproxy", "attempts", certmagic.StorageKeys.Safe(a.key), certmagic.StorageKeys.Safe(name)+".json")
	return history{storage: a.engine.storage, key: key}
}

// read returns the record, the zero one if there is none.
func (h history) read(ctx context.Context) (r record) {
	ctx, cancel := context.WithTimeout(ctx, historyTimeout)
	defer cancel()
	b, err := h.storage.Load(ctx, h.key)
	if err != nil || len(b) > maxRecord || json.Unmarshal(b, &r) != nil {
		return record{}
	}
	now := time.Now()
	r.Failed = slices.DeleteFunc(r.Failed, func(t time.Time) bool {
		return now.Sub(t) >= failureWindow || t.Sub(now) > historyAhead
	})
	for i, t := range r.Failed {
		if t.Sub(now) > historySkew {
			r.Failed[i], r.ahead = now.UTC().Round(0), true
		}
	}
	slices.SortFunc(r.Failed, time.Time.Compare)
	r.Failed = r.Failed[max(0, len(r.Failed)-maxFailures):]
	r.Failures = min(max(r.Failures, 0), 1<<20)
	if !slices.Contains(challenges, r.Worked) {
		r.Worked = ""
	}
	return r
}

// change reads the record, calls f to change it, and writes it. It continues
// after ctx is done: an attempt that ends with the process must be recorded
// too.
func (h history) change(ctx context.Context, f func(*record)) error {
	ctx = context.WithoutCancel(ctx)
	r := h.read(ctx)
	f(&r)
	ctx, cancel := context.WithTimeout(ctx, historyTimeout)
	defer cancel()
	if r.zero() {
		err := h.storage.Delete(ctx, h.key)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return h.storage.Store(ctx, h.key, b)
}

func (r record) zero() bool { return len(r.Failed) == 0 && r.Failures == 0 && r.Worked == "" }

// spent returns when the next attempt may be made; zero means now.
func (r record) spent() time.Time {
	if len(r.Failed) < maxFailures {
		return time.Time{}
	}
	return r.Failed[len(r.Failed)-maxFailures].Add(failureWindow)
}

// begin notes an attempt before it is made: it counts even if the process dies
// during it.
func (r *record) begin(now time.Time) { r.Failed = append(r.Failed, now) }

// forgive removes an attempt that failed for another reason.
func (r *record) forgive(begun time.Time) {
	r.Failed = slices.DeleteFunc(r.Failed, begun.Equal)
}

// challengeOf returns the type of challenge for the next attempt: the one that
// worked last, and after each failure the next one. offered is not empty.
func (r record) challengeOf(offered []string) string {
	first := max(0, slices.Index(offered, r.Worked))
	return offered[(first+r.Failures)%len(offered)]
}

// succeeded notes the type of challenge that worked.
func (r *record) succeeded(challenge string, offered []string) {
	*r = record{}
	if len(offered) > 0 && challenge != offered[0] {
		r.Worked = cmp.Or(challenge, "")
	}
}
