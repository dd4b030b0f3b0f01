package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Where everything lies in Redis. The braces keep it together in a Redis Cluster, as scripts need it.
const (
	valuesKey  = "{hostproxy}:values"   // hash: key to value
	timesKey   = "{hostproxy}:modified" // hash: key to the time of its last Store, in microseconds of Redis's clock
	indexKey   = "{hostproxy}:index"    // sorted set: all keys, in the order of their bytes
	lockPrefix = "{hostproxy}:lock:"    // and the lock's name: the token of its holder
)

const (
	commandLimit = 3 * time.Second // for one command, within its context
	pageSize     = 1000            // keys that one command of List returns
)

// A storage is a certmagic.Storage in Redis. Its methods may be called concurrently. Each returns within commandLimit,
// and by the deadline of its context, but for Lock, which waits as long as its context allows.
type storage struct {
	client *redis.Client
	ttl    time.Duration // that a lock outlives its holder

	mu    sync.Mutex
	locks map[string]*lock // by name: those that this process holds or tries to get
}

// openStorage returns the storage in the Redis server at a URL. It does not ask whether there is one: a proxy starts
// with what it has, and a Redis that is away is the error of each operation.
func openStorage(url string) (*storage, error) {
	o, err := redis.ParseURL(url)
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	o.ContextTimeoutEnabled = true
	o.MaxRetries, o.DialerRetries = 1, 1 // who asked knows best when to ask again
	// A feature of one vendor's servers, which others refuse loudly.
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	return &storage{client: redis.NewClient(o), ttl: lockTTL, locks: map[string]*lock{}}, nil
}

// Close frees the locks that are still held, and ends the connections.
func (s *storage) Close() error {
	return errors.Join(s.unlockAll(), s.client.Close())
}

// storeScript sets a value. Its time is by the one clock that all processes have in common. Read-only.
var storeScript = redis.NewScript(`
local now = redis.call('TIME')
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[1], now[1] * 1000000 + now[2])
return redis.call('ZADD', KEYS[3], 0, ARGV[1])`)

// Store implements certmagic.Storage.
func (s *storage) Store(ctx context.Context, key string, value []byte) error {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	err := storeScript.Run(ctx, s.client, []string{valuesKey, timesKey, indexKey}, key, value).Err()
	return failure(ctx, "store", key, err)
}

// Load implements certmagic.Storage.
func (s *storage) Load(ctx context.Context, key string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	value, err := s.client.HGet(ctx, valuesKey, key).Bytes()
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

// Delete implements certmagic.Storage: the key and what is below it, at once.
func (s *storage) Delete(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	from, to := below(key)
	err := deleteScript.Run(ctx, s.client, []string{valuesKey, timesKey, indexKey}, key, from, to).Err()
	return failure(ctx, "delete", key, err)
}

// Exists implements certmagic.Storage. A Redis that is away has nothing.
func (s *storage) Exists(ctx context.Context, key string) bool {
	_, err := s.Stat(ctx, key)
	return err == nil
}

// Stat implements certmagic.Storage.
func (s *storage) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	var modified *redis.StringCmd
	var size, children *redis.IntCmd
	from, to := below(key)
	_, err := s.client.TxPipelined(ctx, func(p redis.Pipeliner) error {
		modified, size = p.HGet(ctx, timesKey, key), p.HStrLen(ctx, valuesKey, key)
		children = p.ZLexCount(ctx, indexKey, from, to)
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

// List implements certmagic.Storage. A recursive list names files only. Keys that come or go meanwhile may be missed.
func (s *storage) List(ctx context.Context, dir string, recursive bool) ([]string, error) {
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
func (s *storage) page(ctx context.Context, from, to string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	return s.client.ZRangeArgs(ctx, redis.ZRangeArgs{Key: indexKey, ByLex: true, Start: from, Stop: to, Count: pageSize}).Result()
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

// failure says what failed. It is fs.ErrNotExist for a nil reply, and the end of ctx for what that has led to.
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
