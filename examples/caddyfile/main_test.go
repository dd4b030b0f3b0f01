package caddyfile_test

import (
	"testing"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestMain(m *testing.M) { proxytest.Main(m) }
