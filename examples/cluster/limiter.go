package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/hostproxy/hostproxy"
)

const (
	limitTimeout = 50 * time.Millisecond // see LimiterOptions.Timeout
	longestFill  = 366 * 24 * time.Hour  // the longest time in which a bucket may fill
)

// LimiterOptions are the settings of a [Limiter].
type LimiterOptions struct {
	// Name tells the Limiters of one cluster apart. Limiters with the same Name
	// share their buckets, and should have the same Rate and Burst. "" is a
	// valid name.
	Name string

	// Rate is how many requests per second a client may make to all proxies
	// together: above 0, at most 1,000,000, not necessarily whole. Required.
	Rate float64

	// Burst is how many requests a client may make at once after a pause. Zero
	// means Rate, rounded up; negative is an error.
	Burst int

	// Prefix begins the names of all keys in Redis, as in StorageOptions. ""
	// means "hostproxy".
	Prefix string

	// Timeout limits how long each request waits for Redis. Zero means 50 ms;
	// negative is an error.
	Timeout time.Duration

	// Logger logs when the Limiter stops using Redis, and when it uses Redis
	// again. Nil means slog.Default().
	Logger *slog.Logger
}

// A Limiter counts the requests of each client to all proxies in one token
// bucket in Redis. It is a [hostproxy.KeyLimiter]. Its methods may be called
// concurrently.
//
// While Redis fails or does not answer in time, each process has buckets in its
// own memory: a client may then make Rate requests per second to each proxy.
// Requests do not wait for Redis during that time: after three failures in a
// row they do not ask it, and a probe beside them tries it at most once a
// second. Once a reply is overdue by a fifth of Timeout, further requests do
// not wait either. In a Redis Cluster, all this holds for each node and its
// keys.
type Limiter struct {
	client   redis.UniversalClient
	options  LimiterOptions // with the defaults
	interval float64        // microseconds for one token
	breakers breakers
	// returns the address of the node for a key, without waiting; nil without a
	// Redis Cluster
	node  func(key string) string
	local *buckets
}

// NewLimiter returns a Limiter that uses a client. The client must keep the
// deadlines of contexts (ContextTimeoutEnabled), as clients from [Connect] do.
// NewLimiter does not connect.
func NewLimiter(client redis.UniversalClient, o LimiterOptions) (*Limiter, error) {
	prefix, err := validName("LimiterOptions.Prefix", o.Prefix, defaultPrefix)
	_, err2 := validName("LimiterOptions.Name", o.Name, "")
	errs := []error{usable(client), err, err2}
	if !(o.Rate > 0 && o.Rate <= 1e6) { // NaN fails too
		errs = append(errs, fmt.Errorf("cluster: LimiterOptions.Rate %v: want requests per second, above 0 and at most 1000000", o.Rate))
	}
	if o.Burst < 0 {
		errs = append(errs, fmt.Errorf("cluster: LimiterOptions.Burst %d is negative: want a number of requests, or 0 for Rate", o.Burst))
	}
	// a zero Burst becomes at least 1
	if o.Rate > 0 && max(float64(o.Burst), 1)/o.Rate > longestFill.Seconds() {
		errs = append(errs, fmt.Errorf("cluster: LimiterOptions.Burst %d at Rate %v: want a burst that fills in at most a year", o.Burst, o.Rate))
	}
	if o.Timeout < 0 {
		errs = append(errs, fmt.Errorf("cluster: LimiterOptions.Timeout %v is negative: want a duration, or 0 for %v", o.Timeout, limitTimeout))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	o.Prefix, o.Burst, o.Timeout = prefix, cmp.Or(o.Burst, int(math.Ceil(o.Rate))), cmp.Or(o.Timeout, limitTimeout)
	l := &Limiter{client: client, options: o, interval: 1e6 / o.Rate}
	l.local = newBuckets(l.interval, o.Burst)
	l.breakers.grace = o.Timeout / 5
	if c, ok := client.(*redis.ClusterClient); ok {
		l.node = func(key string) string { return nodeOf(c, key) }
	}
	return l, nil
}

// nodeOf returns the address of the node for a key, or "" if c does not know it
// yet. A canceled context keeps c from asking.
func nodeOf(c *redis.ClusterClient, key string) string {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	n, err := c.MasterForKey(ended, key)
	if err != nil {
		return ""
	}
	return n.Options().Addr
}

// RateLimit returns settings that use this Limiter and announce its Rate and
// Burst.
func (l *Limiter) RateLimit() *hostproxy.RateLimit {
	return &hostproxy.RateLimit{Rate: l.options.Rate, Burst: l.options.Burst, Limiter: l}
}

// Allow counts a request of a client. It never returns an error: without Redis,
// it counts in this process.
func (l *Limiter) Allow(ctx context.Context, client netip.Addr) (hostproxy.Quota, error) {
	return l.AllowKey(ctx, client.String())
}

// AllowKey counts a request by another key, for [hostproxy.RateLimit].By. It
// never returns an error.
func (l *Limiter) AllowKey(ctx context.Context, key string) (hostproxy.Quota, error) {
	now := time.Now()
	name, node := l.key(key), ""
	if l.node != nil {
		node = l.node(name)
	}
	b := l.breakers.of(node)
	switch b.ask(now) {
	case askRedis:
		if q, err := l.inRedis(ctx, name, node, b); err == nil {
			return q, nil
		}
	case askLater: // by a bucket at the same node that no client uses
		go func() { _, _ = l.inRedis(context.Background(), name+":probe", node, b) }()
	}
	return l.local.take(key, now), nil
}

// bucketScript takes a token from a bucket. Redis stores when the bucket is
// full again, by its own clock. A time beyond that of an empty bucket, as after
// a change of the clock or of the rate, counts as empty. The reply: whether
// there was a token, how many are left, the microseconds until the next token,
// and those until the bucket is full. Read-only.
var bucketScript = redis.NewScript(`
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local full = math.max(now, tonumber(redis.call('GET', KEYS[1]) or now) or now)
full = math.min(full, now + burst * interval)
local wait = full + interval - burst * interval - now
if wait > 0 then return {0, 0, math.ceil(wait), math.ceil(full - now)} end
full = full + interval
redis.call('SET', KEYS[1], string.format('%.3f', full), 'PX', math.ceil((full - now) / 1000))
return {1, math.floor(burst - (full - now) / interval + 0.001), 0, math.ceil(full - now)}`)

// inRedis takes a token from a bucket in Redis, and reports the result to the
// node's breaker.
func (l *Limiter) inRedis(ctx context.Context, name, node string, b *breaker) (hostproxy.Quota, error) {
	ctx, cancel := context.WithTimeout(ctx, l.options.Timeout)
	defer cancel()
	reply, err := bucketScript.Run(ctx, l.client, []string{name}, l.interval, l.options.Burst).Int64Slice()
	if err == nil && len(reply) != 4 {
		err = fmt.Errorf("the reply has %d numbers, want 4", len(reply))
	}
	// the request was canceled, which says nothing about Redis
	if err != nil && errors.Is(ctx.Err(), context.Canceled) {
		b.left()
		return hostproxy.Quota{}, err
	}
	l.tell(b.answered(time.Now(), err), node, err)
	if err != nil {
		return hostproxy.Quota{}, err
	}
	return hostproxy.Quota{OK: reply[0] == 1, Remaining: int(reply[1]), Retry: micros(reply[2]), Reset: micros(reply[3])}, nil
}

// key returns the name of a bucket in Redis. Each bucket has a slot of its own,
// so that the nodes of a Redis Cluster share the work.
func (l *Limiter) key(client string) string {
	if strings.ContainsAny(client, "{}") { // only a caller other than hostproxy uses such keys
		client = fmt.Sprintf("%x", client)
	}
	return l.options.Prefix + ":limit:" + l.options.Name + ":{" + client + "}"
}

// tell logs a change of a node's breaker.
func (l *Limiter) tell(c change, node string, err error) {
	log := l.options.Logger
	if log == nil {
		log = slog.Default()
	}
	if node != "" {
		log = log.With("node", node)
	}
	switch c {
	case opened:
		log.Warn("rate limits are counted in this process: Redis fails", "limiter", l.options.Name, "err", err)
	case closed:
		log.Info("rate limits are counted in Redis again", "limiter", l.options.Name)
	}
}

func micros(n int64) time.Duration { return time.Duration(n) * time.Microsecond }
