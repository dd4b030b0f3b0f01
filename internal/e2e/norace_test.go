//go:build !race

package e2e_test

import "time"

// Constants that depend on the speed of the machine; see race_test.go.
const (
	chaosClients  = 120
	chaosPatience = 10 * time.Second // more than the healthy target takes
	parallel      = "64"             // most of what is parallel waits
	godebug       = ",tlsmlkem=0"    // the race step uses the hybrid key exchange
)
