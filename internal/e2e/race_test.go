//go:build race

package e2e_test

import "time"

// The race detector makes everything ten times slower: fewer clients ask, and
// have more patience.
const (
	chaosClients  = 16
	chaosPatience = 5 * time.Second
)
