package http3_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestTheModuleIsCompleteOutsideTheTree(t *testing.T) {
	text, err := os.ReadFile("cmd/proxy/main.go")
	require.NoError(t, err)
	proxytest.BuildOutside(t, string(text))
}
