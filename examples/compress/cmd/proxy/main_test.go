package main

import (
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheProgramHasARouteForAllHosts(t *testing.T) {
	r, err := router("localhost:4006")
	require.NoError(t, err)
	_, pattern := r.Handler(httptest.NewRequest("GET", "http://any.example/", nil))
	assert.Equal(t, "*", pattern)
	_, err = router("not a target")
	assert.ErrorContains(t, err, "not a target")
}
