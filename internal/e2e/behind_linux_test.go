//go:build !portable

package e2e_test

// seesBehind says that the proxy notices a disconnect even if there are unread
// bytes of the client.
const seesBehind = true
