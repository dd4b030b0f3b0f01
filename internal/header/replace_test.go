package header_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/internal/header"
)

func TestAReplacementReplacesAllSpellings(t *testing.T) {
	rs := []header.Replacement{{Name: "X-Trace", Value: "1"}, {Name: "X-State", Gone: true}}
	h := http.Header{"X-Trace": {"a", "b"}, "X_trace": {"c"}, "x-TRACE": {"d"}, "X_State": {"e"}, "X-Traces": {"f"}}
	header.Replace(h, rs)
	assert.Equal(t, http.Header{"X-Trace": {"1"}, "X-Traces": {"f"}}, h)
	for name, want := range map[string]bool{"x-trace": true, "X_STATE": true, "X-Traces": false, "": false} {
		assert.Equal(t, want, header.Replaces(rs, []byte(name)), name)
	}
	assert.False(t, header.Replaces(nil, "X-Trace"))
}
