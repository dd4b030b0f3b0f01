//go:build !race

package certs_test

const yearRaced = false
