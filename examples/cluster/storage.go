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

// Suffixes of the names of keys. The braces around the prefix put all these
// keys into one slot of a Redis Cluster, as scripts require.
const (
	valuesName = ":values" // hash: value by key
	// hash: time of the last Store by key, in microseconds of Redis's clock
	timesName = ":modified"
	indexName = ":index" // sorted set: all keys in bytewise order
	lockName  = ":lock:" // followed by the lock's name: token of the holder
)

const pageSize = 1000 // maximum number of keys in one reply for List

// StorageOptions are the settings of a [Storage]. The zero value is ready to
// use.
type StorageOptions struct {
	// Prefix begins the names of all keys in Redis. Proxies with the same
	// Prefix and database form one cluster. "" means "hostproxy".
	Prefix string

	// LockTTL is how long a lock outlives the process that holds it. A process
	// renews its locks three times in that time. Zero means 10 s; less than 100
	// ms is an error.
	LockTTL time.Duration

	// Timeout limits each command to Redis, within the context of the call.
	// Zero means 3 s; negative is an error.
	Timeout time.Duration

	// Logger gets a warning when a lock is lost. Nil means slog.Default().
	Logger *slog.Logger
}

// A Storage is a certmagic.Storage in Redis, for [hostproxy.TLS].Storage. Its
// methods may be called concurrently. Each returns within Timeout and by the
// deadline of its context, with two exceptions: Lock waits as long as its
// context allows, and List takes up to one Timeout per thousand keys.
//
// If Redis cannot be reached, each method returns an error; Exists returns
// false.
type Storage struct {
	client  redis.UniversalClient
	options StorageOptions // with the defaults
	keys    []string       // names of values, times and index, for scripts

	mu    sync.Mutex
	locks map[string]*lock // locks held or being taken by this process, by name
}

// NewStorage returns a Storage that uses a client. It does not connect. The
// client must keep the deadlines of contexts (ContextTimeoutEnabled), as
// clients from [Connect] do. Limiters may share it. Storage does not close it.
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

// storeScript sets a value. Its time comes from Redis's clock, the only one
// that all processes share. Read-only.
var storeScript = redis.NewScript(`
local now = redis.call('TIME')
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[1], now[1] * 1000000 + now[2])
return redis.call('ZADD', KEYS[3], 0, ARGV[1])`)

// Store stores a value. It implements certmagic.Storage.
func (s *Storage) Store(ctx context.Context, key string, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, s.options.Timeout)
	defer cancel()
	err := storeScript.Run(ctx, s.client, s.keys, key, value).Err()
	return failure(ctx, "store", key, err)
}

// Load returns a value. It implements certmagic.Storage.
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

// Delete deletes a key and all keys below it atomically. It implements
// certmagic.Storage.
func (s *Storage) Delete(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, s.options.Timeout)
	defer cancel()
	from, to := below(key)
	err := deleteScript.Run(ctx, s.client, s.keys, key, from, to).Err()
	return failure(ctx, "delete", key, err)
}

// Exists reports whether a key exists. It implements certmagic.Storage. It
// returns false if Redis cannot be reached.
func (s *Storage) Exists(ctx context.Context, key string) bool {
	_, err := s.Stat(ctx, key)
	return err == nil
}

// Stat describes a key or a directory. It implements certmagic.Storage.
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

// List lists keys. It implements certmagic.Storage. A recursive list has files
// only. Keys that are added or deleted meanwhile may be missing.
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
	slices.Sort(keys) // a file and the directory of the same name are not neighbours in the index
	return slices.Compact(keys), nil
}

// page returns the first keys of a range of the index.
func (s *Storage) page(ctx context.Context, from, to string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.options.Timeout)
	defer cancel()
	return s.client.ZRangeArgs(ctx, redis.ZRangeArgs{Key: s.keys[2], ByLex: true, Start: from, Stop: to, Count: pageSize}).Result()
}

// below returns the index range of the keys below dir. "" means all keys.
func below(dir string) (from, to string) {
	if dir == "" {
		return "-", "+"
	}
	return "[" + dir + "/", "(" + dir + "0" // "0" is the character after "/"
}

// child returns the child of dir that is key or contains it.
func child(dir, key string) string {
	if dir != "" {
		dir += "/"
	}
	name, _, _ := strings.Cut(key[len(dir):], "/")
	return dir + name
}

// failure names the operation that failed. It wraps fs.ErrNotExist for a nil
// reply, and the context's error if the end of ctx caused the failure.
func failure(ctx context.Context, verb, key string, err error) error {
	deadline, ok := ctx.Deadline()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, redis.Nil):
		err = fs.ErrNotExist
	case ctx.Err() != nil:
		err = ctx.Err()
	case ok && !time.Now().Before(deadline):
		// the connection may notice the deadline before ctx does
		err = context.DeadlineExceeded
	}
	return fmt.Errorf("%s %q: %w", verb, key, err)
}
