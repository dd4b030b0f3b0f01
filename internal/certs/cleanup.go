package certs

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"log/slog"
	"path"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
)

// The storage key of the last cleanup's time, and the lock around a cleanup.
const (
	cleanedKey  = "hostproxy/cleaned"
	cleanedLock = "hostproxy_cleanup"
)

const (
	cleanFirst = 10 * time.Minute // after the start
	cleanLook  = 6 * time.Hour    // between two checks whether a cleanup is due
	cleanEvery = 24 * time.Hour
	cleanAfter = 30 * 24 * time.Hour // after a certificate expired
)

// A janitor deletes, once a day, the stored certificates that no member of a
// cluster needs any more.
type janitor struct {
	storage *boundedStorage
	chains  func() iter.Seq[*chain]
	has     func(name string) bool // reports whether a host is in the table
	log     *slog.Logger
}

// watch is the task that cleans the storage until ctx is done.
func (j *janitor) watch(ctx context.Context) {
	timer := time.NewTimer(cleanFirst)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if err := j.cleanUp(ctx); err != nil && ctx.Err() == nil {
			j.log.Debug("storage not cleaned", "cause", err)
		}
		timer.Reset(cleanLook)
	}
}

// cleanUp deletes the certificates that expired a month ago, unless another
// member has done so today. A member of the cluster that has a route for a host
// renews its certificate; one that expired a month ago is therefore needed by
// no member, whatever routes they have. If that is wrong, no harm is done: the
// certificate is useless, and the host gets a new one. Only the issuers in
// chains are checked, and of their hosts only those without a route here.
func (j *janitor) cleanUp(ctx context.Context) error {
	if due, err := j.due(ctx); err != nil || !due {
		return err
	}
	patience, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := j.storage.Lock(patience, cleanedLock); err != nil {
		return err
	}
	defer func() { _ = j.storage.Unlock(context.WithoutCancel(ctx), cleanedLock) }()
	if due, err := j.due(ctx); err != nil || !due {
		return err
	}
	// First, so that a failure is retried tomorrow.
	if err := j.storage.put(ctx, cleanedKey, []byte(time.Now().UTC().Format(time.RFC3339))); err != nil {
		return err
	}
	seen := make(map[string]bool)
	var errs []error
	for c := range j.chains() {
		for _, a := range c.authorities {
			if !seen[a.key] {
				seen[a.key] = true
				errs = append(errs, j.cleanUpAfter(ctx, a))
			}
		}
	}
	return errors.Join(errs...)
}

// due reports whether the last cleanup was a day ago or more. A value that is
// not a time, or is more than a day in the future, counts as never.
func (j *janitor) due(ctx context.Context) (bool, error) {
	b, err := j.storage.Load(ctx, cleanedKey)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	last, bad := time.Parse(time.RFC3339, string(b))
	age := time.Since(last)
	return err == nil && (bad != nil || age < -cleanEvery || age >= cleanEvery), err
}

// cleanUpAfter deletes the expired certificates of a.
func (j *janitor) cleanUpAfter(ctx context.Context, a *authority) error {
	prefix := a.prefix
	keys, err := j.storage.List(ctx, prefix, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	folders := make(map[string]bool)
	for _, key := range keys { // some storages list more than was requested
		folder, _, _ := strings.Cut(strings.TrimPrefix(key, prefix+"/"), "/")
		folders[folder] = true
	}
	looked, deleted := 0, 0
	for folder := range folders {
		name := hostOf(folder)
		if folder == "" || certmagic.StorageKeys.Safe(name) != folder || j.has(name) {
			continue // not the folder of a host, so its keys cannot be trusted; or a host of ours
		}
		if looked++; looked%leaseBatch == 0 {
			if err := j.storage.RenewLockLease(ctx, cleanedLock, leaseTime); err != nil {
				return err
			}
		}
		done, err := j.deleteExpired(ctx, a, name)
		if err != nil {
			return err
		}
		if done {
			deleted++
		}
	}
	if deleted > 0 {
		j.log.Info("expired certificates deleted from storage", "issuer", a.key, "hosts", deleted)
	}
	return nil
}

// hostOf returns the host or wildcard whose name certmagic turned into a folder
// name. The colons of IPv6 addresses are lost; callers do not need them.
func hostOf(folder string) string {
	if zone, ok := strings.CutPrefix(folder, "wildcard_"); ok {
		return "*" + zone
	}
	return folder
}

// deleteExpired deletes all stored values of name, if its certificate expired a
// month ago and is not being replaced.
func (j *janitor) deleteExpired(ctx context.Context, a *authority, name string) (bool, error) {
	if old, err := j.longExpired(ctx, a, name); err != nil || !old {
		return false, err
	}
	s := j.storage
	patience, cancel := context.WithTimeout(ctx, holdingPatience)
	defer cancel()
	if err := s.Lock(patience, issueLock(name)); err != nil {
		return false, nil // retried tomorrow
	}
	defer func() { _ = s.Unlock(context.WithoutCancel(ctx), issueLock(name)) }()
	if old, err := j.longExpired(ctx, a, name); err != nil || !old {
		return false, err
	}
	for _, key := range a.belongings(name) {
		if err := s.Delete(ctx, key); err != nil {
			return false, err
		}
	}
	return true, nil
}

func (j *janitor) longExpired(ctx context.Context, a *authority, name string) (bool, error) {
	text, err := j.storage.Load(ctx, a.siteKey(name, certFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	b, err := readBundle(text)
	return err == nil && time.Since(b.certs[0].NotAfter) > cleanAfter, nil
}

// belongings returns the storage keys of a host. The certificate is deleted
// late: after a failure midway, the next cleanup finds the rest by it.
func (a *authority) belongings(name string) []string {
	keys := certmagic.StorageKeys
	return []string{
		path.Join("hostproxy/attempts", keys.Safe(a.key), keys.Safe(name)+".json"),
		keys.SiteMeta(a.key, name),
		keys.SitePrivateKey(a.key, name),
		keys.SiteCert(a.key, name),
		keys.CertsSitePrefix(a.key, name),
	}
}
