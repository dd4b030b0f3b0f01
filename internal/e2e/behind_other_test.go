//go:build !linux || portable

package e2e_test

// No portable way is known; see behind_linux_test.go.
const seesBehind = false
