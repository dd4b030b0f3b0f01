package certs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/mholt/acmez/v3/acme"
)

// maxNoted is how many failures of storage are noted in one context.
const maxNoted = 8

// A storageError is an operation of storage that failed for another reason than
// that there is nothing, and whose caller was there to see it.
type storageError struct {
	verb, key string
	err       error
}

func (e *storageError) Error() string { return fmt.Sprintf("storage: %s %q: %v", e.verb, e.key, e.err) }
func (e *storageError) Unwrap() error { return e.err }

// storageFailed reports whether err is about storage and nothing else: of
// errors that are joined, each has to be.
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

// A markedError is an error that a failure of storage has led to, through code
// that has kept its text alone.
type markedError struct {
	error
	cause *storageError
}

func (e *markedError) Unwrap() []error { return []error{e.error, e.cause} }

type notedKey struct{}

// noted are the failures of storage in one context.
type noted struct {
	mu   sync.Mutex
	errs []*storageError
}

// markStorage returns a context for code that passes errors on as text, and
// a function that finds out whether an error of that code comes from storage,
// and marks it for storageFailed. The words of a peer cannot pass for
// storage's: an operation must have failed with them.
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

// noteFailure returns err as an error of storage, and notes it in ctx.
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
