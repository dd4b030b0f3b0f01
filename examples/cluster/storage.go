package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/redis/go-redis/v9"
)

// What follows the prefix in the names of keys. The braces around the prefix
// keep all of it in one slot of a Redis Cluster, as scripts need it.
const (
	valuesName = ":values" // hash: key to value
	// hash: key to the time of its last Store, in microseconds of Redis's clock
	timesName = ":modified"
	indexName = ":index" // sorted set: all keys, in the order of their bytes
	lockName  = ":lock:" // and the lock's name: the token of its holder
)

const pageSize = 1000 // keys that one command of List returns

// StorageOptions are the settings of a [Storage]. The zero value is ready to
// use.
type StorageOptions struct {
	// Prefix begins the names of all keys in Redis. Proxies with the same
	// Prefix in the same database are one cluster. "" means hostproxy.
	Prefix string

	// LockTTL is how long a lock outlives the process that holds it. A process
	// renews its locks three times as often. Zero means 10 s; less than 100 ms
	// is an error.
	LockTTL time.Duration

	// Timeout limits each command to Redis, within the context of the call.
	// Zero means 3 s; negative is an error.
	Timeout time.Duration

	// Logger gets a warning when a lock is lost. Nil means slog.Default().
	Logger *slog.Logger
}

// A Storage is a certmagic.Storage in Redis, for [hostproxy.TLS].Storage. Its
// methods may be called concurrently. Each returns within Timeout and by the
// deadline of its context, except Lock, which waits as long as its context
// allows. List takes one Timeout for each thousand keys.
//
// If Redis cannot be reached, each method returns an error; Exists returns
// false.
type Storage struct {
	client  redis.UniversalClient
	options StorageOptions // complete
	keys    []string       // values, times, index: what scripts get

	mu    sync.Mutex
	locks map[string]*lock // by name: those that this process holds or tries to get
}

// NewStorage returns a Storage that uses a client. It does not connect. The
// client must keep the deadlines of contexts (ContextTimeoutEnabled), as those
// of [Connect] do. It may be shared with Limiters, and is not closed by
// Storage.
func NewStorage(client redis.UniversalClient, o StorageOptions) (*Storage, error) {
	prefix, err := validName("StorageOptions.Prefix", o.Prefix, defaultPrefix)
	errs := []error{usable(client), err}
	if o.LockTTL != 0 && o.LockTTL < minLockTTL {
		errs = append(errs, fmt.Errorf("cluster: StorageOptions.LockTTL %v: want at least %v, or 0 for %v", o.LockTTL, minLockTTL, lockTTL))
	}
	if o.Timeout < 0 {
		errs = append(errs, fmt.Errorf("cluster: StorageOptions.Timeout %v is negative: want a duration, or 0 for %v", o.Timeout, commandLimit))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	o.Prefix, o.LockTTL, o.Timeout = prefix, cmp.Or(o.LockTTL, lockTTL), cmp.Or(o.Timeout, commandLimit)
	s := &Storage{client: client, options: o, locks: map[string]*lock{}}
	s.keys = []string{s.key(valuesName), s.key(timesName), s.key(indexName)}
	return s, nil
}

// Close frees the locks that are still held. It does not close the client.
func (s *Storage) Close() error { return s.unlockAll() }

// key returns the name of a key in Redis.
func (s *Storage) key(name string) string { return "{" + s.options.Prefix + "}" + name }

// logger returns where to log.
func (s *Storage) logger() *slog.Logger {
	if s.options.Logger != nil {
		return s.options.Logger
	}
	return slog.Default()
}

// storeScript sets a value. Its time is by the one clock that all processes
// have in common. Read-only.
var storeScript = redis.NewScript(`
local now = redis.call('TIME')
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[1], now[1] * 1000000 + now[2])
return redis.call('ZADD', KEYS[3], 0, ARGV[1])`)

// Store stores a value; it implements certmagic.Storage.
func (s *Storage) Store(ctx context.Context, key string, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, s.options.Timeout)
	defer cancel()
	err := storeScript.Run(ctx, s.client, s.keys, key, value).Err()
	return failure(ctx, "store", key, err)
}

// Load returns a value; it implements certmagic.Storage.
func (s *Storage) Load(ctx context.Context, key string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, s.options.Timeout)
	defer cancel()
	value, err := s.client.HGet(ctx, s.keys[0], key).Bytes()
	return value, failure(ctx, "load", key, err)
}

// deleteScript deletes a key and all keys in a range of the index. Read-only.
var deleteScript = redis.NewScript(`
local keys = redis.call('ZRANGE', KEYS[3], ARGV[2], ARGV[3], 'BYLEX')
table.insert(keys, ARGV[1])
for _, key in ipairs(keys) do
	redis.call('HDEL', KEYS[1], key)
	redis.call('HDEL', KEYS[2], key)
	redis.call('ZREM', KEYS[3], key)
end
return #keys`)

// Delete deletes a key and all keys below it, at once; it implements
// certmagic.Storage.
func (s *Storage) Delete(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, s.options.Timeout)
	defer cancel()
	from, to := below(key)
	err := deleteScript.Run(ctx, s.client, s.keys, key, from, to).Err()
	return failure(ctx, "delete", key, err)
}

// Exists reports whether a key exists; it implements certmagic.Storage. It
// returns false if Redis cannot be reached.
func (s *Storage) Exists(ctx context.Context, key string) bool {
	_, err := s.Stat(ctx, key)
	return err == nil
}

// Stat describes a key or what is below it; it implements certmagic.Storage.
func (s *Storage) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, s.options.Timeout)
	defer cancel()
	var modified *redis.StringCmd
	var size, children *redis.IntCmd
	from, to := below(key)
	_, err := s.client.TxPipelined(ctx, func(p redis.Pipeliner) error {
		modified, size = p.HGet(ctx, s.keys[1], key), p.HStrLen(ctx, s.keys[0], key)
		children = p.ZLexCount(ctx, s.keys[2], from, to)
		return nil
	})
	if errors.Is(err, redis.Nil) && children.Val() > 0 {
		return certmagic.KeyInfo{Key: key}, nil
	}
	if err != nil {
		return certmagic.KeyInfo{}, failure(ctx, "stat", key, err)
	}
	at, err := modified.Int64()
	return certmagic.KeyInfo{Key: key, Modified: time.UnixMicro(at), Size: size.Val(), IsTerminal: true}, err
}

// List lists keys; it implements certmagic.Storage. A recursive list names
// files only. Keys that come or go meanwhile may be missed.
func (s *Storage) List(ctx context.Context, dir string, recursive bool) ([]string, error) {
	var keys []string
	from, to := below(dir)
	for n := pageSize; n == pageSize; {
		page, err := s.page(ctx, from, to)
		if err != nil {
			return nil, failure(ctx, "list", dir, err)
		}
		if n = len(page); n > 0 {
			from = "(" + page[n-1]
		}
		for _, key := range page {
			if !recursive {
				key = child(dir, key)
			}
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil, failure(ctx, "list", dir, redis.Nil)
	}
	slices.Sort(keys) // a child that is a file is not beside the files below it
	return slices.Compact(keys), nil
}

// page returns the first keys of a range of the index.
func (s *Storage) page(ctx context.Context, from, to string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.options.Timeout)
	defer cancel()
	return s.client.ZRangeArgs(ctx, redis.ZRangeArgs{Key: s.keys[2], ByLex: true, Start: from, Stop: to, Count: pageSize}).Result()
}

// below returns the range of the index with the keys below dir, all for "".
func below(dir string) (from, to string) {
	if dir == "" {
		return "-", "+"
	}
	return "[" + dir + "/", "(" + dir + "0" // the character after the slash
}

// child returns the child of dir that is key or has it below.
func child(dir, key string) string {
	if dir != "" {
		dir += "/"
	}
	name, _, _ := strings.Cut(key[len(dir):], "/")
	return dir + name
}

// failure says what failed. It is fs.ErrNotExist for a nil reply, and the end
// of ctx for what that has led to.
func failure(ctx context.Context, verb, key string, err error) error {
	deadline, ok := ctx.Deadline()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, redis.Nil):
		err = fs.ErrNotExist
	case ctx.Err() != nil:
		err = ctx.Err()
	case ok && !time.Now().Before(deadline): // the connection has noticed first
		err = context.DeadlineExceeded
	}
	return fmt.Errorf("%s %q: %w", verb, key, err)
}
