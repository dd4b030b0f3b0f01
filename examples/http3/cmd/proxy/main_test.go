package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheServerHasHTTP3AtTheSameAddress(t *testing.T) {
	s, err := server("app.localhost", "localhost:4006", ":8443", ":8080")
	require.NoError(t, err)
	assert.Len(t, s.Companions, 1)
	assert.NoError(t, s.Router.Check())
	_, err = server("app.localhost", "not a target", ":8443", ":8080")
	assert.ErrorContains(t, err, "not a target")
	_, err = server("not a host", "localhost:4006", ":8443", ":8080")
	assert.ErrorContains(t, err, "not a host")
}
