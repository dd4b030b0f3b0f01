//go:build !linux || portable

package e2e_test

// There is no portable way; see behind_linux_test.go.
const seesBehind = false
