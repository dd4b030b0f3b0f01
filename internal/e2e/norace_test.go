//go:build !race

package e2e_test

import "time"

// What depends on how fast the machine is; see race_test.go.
const (
	chaosClients  = 120
	chaosPatience = 10 * time.Second // more than the target that is well takes
)
