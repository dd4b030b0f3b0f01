//go:build race

package certs_test

// The race detector makes everything ten times slower, so it gets only a part
// of the year.
const yearRaced = true
