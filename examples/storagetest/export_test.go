package storagetest

import (
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
)

// LockEnv is set in the process that holds the lock of RunKilled.
const LockEnv = lockEnv

// Killed is the check of RunKilled for a storage at an address.
var Killed = killed

// Check checks one property of s, with less patience than Run.
func Check(t testing.TB, name string, s certmagic.Storage) {
	for _, c := range checks {
		if c.name == name {
			c.run(newRig(t, s, s, 1200*time.Millisecond))
			return
		}
	}
	t.Fatalf("there is no check %q", name)
}

// Checks returns the names of all properties.
func Checks() []string {
	var names []string
	for _, c := range checks {
		names = append(names, c.name)
	}
	return names
}
