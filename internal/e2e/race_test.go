//go:build race

package e2e_test

import "time"

// The race detector makes everything ten times slower: there are fewer clients,
// with longer timeouts.
const (
	chaosClients  = 16
	chaosPatience = 5 * time.Second
	parallel      = "32" // as many parallel tests as still have time to wait
	godebug       = ""   // all that is usual
)
