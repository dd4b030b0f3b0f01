//go:build !portable

package e2e_test

// seesBehind says that the proxy sees clients leave behind bytes that it has
// not read.
const seesBehind = true
