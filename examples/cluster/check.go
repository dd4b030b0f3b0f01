package cluster

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// Check asks whether this Redis suits a cluster of proxies. Call it at the
// start. Each error and each warning is one sentence that names the server, the
// fault and the remedy. Check returns all of them, the errors joined.
//
// An error that wraps [ErrUnreachable] may go away by itself: Redis is away, is
// starting, or has no master at the moment. Any other error stays until its
// cause is changed: a password, a permission, TLS, the kind of server (a
// replica, a Sentinel, a node of a Redis Cluster), its version, or maxmemory
// with a maxmemory-policy that evicts keys without an expiry, such as
// allkeys-lru. Redis could then evict all certificates at once.
//
// Warnings are about possible losses later: nothing is persisted, locks may be
// evicted, or Redis does not say.
func (s *Storage) Check(ctx context.Context) (warnings []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*s.options.Timeout)
	defer cancel()
	var mu sync.Mutex
	var errs []error
	look := func(ctx context.Context, c *redis.Client) error {
		i := &inspection{ctx: ctx, storage: s, client: c, addr: c.Options().Addr}
		i.name = "redis at " + i.addr
		// go-redis does not tell which server it is
		if _, _, err := net.SplitHostPort(i.addr); err != nil {
			i.name = "the Redis that the Sentinels name"
		}
		err := i.look()
		mu.Lock()
		defer mu.Unlock()
		warnings, errs = append(warnings, i.warnings...), append(errs, err)
		return nil
	}
	switch c := s.client.(type) {
	case *redis.ClusterClient:
		if err := c.ForEachMaster(ctx, look); err != nil {
			return nil, s.explain(ctx, "redis at "+strings.Join(c.Options().Addrs, ", "), err)
		}
	case *redis.Client:
		_ = look(ctx, c)
	}
	if err := errors.Join(errs...); err != nil {
		return sorted(warnings), err
	}
	return sorted(warnings), s.explain(ctx, "redis", s.rehearse(ctx))
}

// sorted returns the sentences without repetitions, in an order that does not
// depend on which server was faster.
func sorted(sentences []string) []string {
	slices.Sort(sentences)
	return slices.Compact(sentences)
}

// rehearse does what the cluster will do: it writes, reads and deletes a key,
// takes and frees a lock, and takes a token. So it finds missing permissions.
// Several processes may do this at once.
func (s *Storage) rehearse(ctx context.Context) error {
	const key = "hostproxy-check"
	err := s.Store(ctx, key, []byte("check"))
	if err != nil {
		return err
	}
	_, err = s.Load(ctx, key)
	_, err2 := s.Stat(ctx, key)
	_, err3 := s.List(ctx, key, true)
	for _, err := range []error{err, err2, err3, s.Delete(ctx, key)} {
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // another process may have deleted it
			return err
		}
	}
	name := "check-" + rand.Text() // the lock expires by itself if this process dies
	if err := s.Lock(ctx, name); err != nil {
		return err
	}
	if err := s.Unlock(ctx, name); err != nil {
		return err
	}
	l := &Limiter{options: LimiterOptions{Prefix: s.options.Prefix}}
	return bucketScript.Run(ctx, s.client, []string{l.key("check")}, 1, 1).Err()
}

// An inspection examines one server.
type inspection struct {
	ctx      context.Context
	storage  *Storage
	client   *redis.Client
	addr     string
	name     string            // the server's name in the sentences
	info     map[string]string // the fields of INFO
	warnings []string
}

// look returns all faults of the server, joined.
func (i *inspection) look() error {
	if err := i.ping(); err != nil {
		return err
	}
	text, err := i.client.Info(i.ctx).Result()
	if err != nil {
		i.warn("does not answer INFO (%v): nothing is known about its eviction, persistence and version; allow its user the command", err)
		return nil
	}
	i.info = map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			i.info[name] = value
		}
	}
	if err := i.kind(); err != nil {
		return err
	}
	i.persistence()
	return errors.Join(i.version(), i.eviction())
}

// ping requires an answer. A Redis without TLS takes a handshake for an
// incomplete line, and does not answer.
func (i *inspection) ping() error {
	ctx, cancel := context.WithTimeout(i.ctx, i.storage.options.Timeout)
	defer cancel()
	err := i.client.Ping(ctx).Err()
	if err != nil && ctx.Err() != nil && i.client.Options().TLSConfig != nil && i.speaksPlain() {
		return i.fault(noTLS)
	}
	return i.storage.explain(i.ctx, i.name, err)
}

// speaksPlain reports whether the server answers without TLS.
func (i *inspection) speaksPlain() bool {
	c, err := new(net.Dialer).DialContext(i.ctx, "tcp", i.addr)
	if err != nil {
		return false
	}
	defer c.Close()
	deadline, _ := i.ctx.Deadline()
	_ = c.SetDeadline(deadline)
	var reply [1]byte
	_, err = io.WriteString(c, "PING\r\n")
	_, err2 := io.ReadFull(c, reply[:])
	return err == nil && err2 == nil && (reply[0] == '+' || reply[0] == '-')
}

func (i *inspection) warn(format string, args ...any) {
	i.warnings = append(i.warnings, i.name+" "+fmt.Sprintf(format, args...))
}

func (i *inspection) fault(format string, args ...any) error {
	return fmt.Errorf("cluster: %s %s", i.name, fmt.Sprintf(format, args...))
}

// kind requires a server that accepts writes, and that it is of the kind that
// the client expects.
func (i *inspection) kind() error {
	_, isCluster := i.storage.client.(*redis.ClusterClient)
	switch {
	case i.info["redis_mode"] == "sentinel":
		return i.fault("is a Sentinel: add the name of the master that it watches to the URL, master_name=…")
	case i.info["redis_mode"] == "cluster" && !isCluster:
		return i.fault("is a node of a Redis Cluster: add cluster=true to the URL")
	case i.info["role"] == "slave":
		return i.fault("is a replica, which takes no writes: connect to its master, %s:%s, or through Sentinels with master_name=…", i.info["master_host"], i.info["master_port"])
	}
	return nil
}

// version requires ZRANGE with BYLEX, the newest feature that is used.
func (i *inspection) version() error {
	major, minor := 0, 0
	if n, _ := fmt.Sscanf(i.info["redis_version"], "%d.%d", &major, &minor); n == 2 && (major < 6 || major == 6 && minor < 2) {
		return i.fault("has version %q: version 6.2 or later is required, or Valkey", i.info["redis_version"])
	}
	return nil
}

// eviction checks what Redis does when its memory is full. All certificates are
// in a few keys, which have no expiry.
func (i *inspection) eviction() error {
	policy, limit := i.info["maxmemory_policy"], i.info["maxmemory"]
	bytes, err := strconv.ParseInt(limit, 10, 64)
	switch {
	case policy == "":
		i.warn("does not say what its maxmemory-policy is: let it be noeviction")
	case strings.HasPrefix(policy, "allkeys-") && (bytes > 0 || err != nil):
		return i.fault("has maxmemory-policy %q and maxmemory %q: it evicts certificates and their keys when its memory is full; CONFIG SET maxmemory-policy noeviction, and the same in its configuration", policy, limit)
	case strings.HasPrefix(policy, "allkeys-"):
		i.warn("has maxmemory-policy %q: as soon as maxmemory is set, it evicts certificates and their keys; set maxmemory-policy to noeviction", policy)
	case policy != "noeviction" && (bytes > 0 || err != nil):
		i.warn("has maxmemory-policy %q and maxmemory %q: when its memory is full it evicts locks, and two proxies may order the same certificate; set maxmemory-policy to noeviction", policy, limit)
	}
	return nil
}

// persistence checks what Redis keeps when it restarts.
func (i *inspection) persistence() {
	if i.info["aof_enabled"] == "1" {
		return
	}
	switch save, err := i.client.ConfigGet(i.ctx, "save").Result(); {
	case err != nil && i.info["aof_enabled"] == "0":
		i.warn("has appendonly off and does not say whether it saves snapshots: without both, a restart loses all certificates; set appendonly to yes")
	case err == nil && save["save"] == "":
		i.warn("persists nothing: a restart loses all certificates that no proxy has in memory; CONFIG SET appendonly yes, and the same in its configuration")
	}
}
