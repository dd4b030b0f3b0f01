package certs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/mholt/acmez/v3/acme"
)

// maxNoted limits the failures of storage that are noted in one context.
const maxNoted = 8

// A storageError is a failed storage operation, other than for a missing key,
// whose caller was still waiting.
type storageError struct {
	verb, key string
	err       error
}

func (e *storageError) Error() string { return fmt.Sprintf("storage: %s %q: %v", e.verb, e.key, e.err) }
func (e *storageError) Unwrap() error { return e.err }

// storageFailed reports whether err comes only from storage: of joined errors,
// each must.
func storageFailed(err error) bool {
	switch e := err.(type) {
	case *storageError, *markedError:
		return true
	case interface{ Unwrap() []error }:
		errs := e.Unwrap()
		for _, err := range errs {
			if !storageFailed(err) {
				return false
			}
		}
		return len(errs) > 0
	case interface{ Unwrap() error }:
		return storageFailed(e.Unwrap())
	}
	return false
}

// A markedError is an error caused by a failure of storage, but returned by
// code that kept only its text.
type markedError struct {
	error
	cause *storageError
}

func (e *markedError) Unwrap() []error { return []error{e.error, e.cause} }

type notedKey struct{}

// noted holds the failures of storage in one context.
type noted struct {
	mu   sync.Mutex
	errs []*storageError
}

// markStorage returns a context for code that passes errors on as text, and a
// function that checks whether an error of that code comes from storage, and
// marks it for storageFailed. A peer's text cannot be mistaken for a storage
// error: an operation must have failed with that text.
func markStorage(ctx context.Context) (context.Context, func(error) error) {
	n := new(noted)
	return context.WithValue(ctx, notedKey{}, n), n.mark
}

func (n *noted) mark(err error) error {
	if p := (acme.Problem{}); err == nil || storageFailed(err) || errors.As(err, &p) {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range n.errs {
		if strings.Contains(err.Error(), e.Error()) {
			return &markedError{err, e}
		}
	}
	return err
}

// noteFailure returns err as a storageError, and notes it in ctx.
func noteFailure(ctx context.Context, verb, key string, err error) error {
	e := &storageError{verb, key, err}
	if n, ok := ctx.Value(notedKey{}).(*noted); ok {
		n.mu.Lock()
		defer n.mu.Unlock()
		if len(n.errs) < maxNoted {
			n.errs = append(n.errs, e)
		}
	}
	return e
}
