package exchange_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/internal/exchange"
)

// The codes are those of google.golang.org/grpc/codes.
func TestEachStatusOfOursHasAGRPCStatus(t *testing.T) {
	for status, want := range map[int]string{
		400: "13", 401: "16", 403: "7", 404: "12", 408: "4", 413: "8", 417: "2", 421: "14", 429: "8", 431: "8",
		500: "13", 501: "12", 502: "14", 503: "14", 504: "4", 508: "2", 599: "2",
	} {
		assert.Equal(t, want, exchange.GRPCStatus(status), status)
	}
}

func TestAGRPCMessageIsPercentEncoded(t *testing.T) {
	assert.Equal(t, "503 Service Unavailable: dns_error", exchange.GRPCMessage("503 Service Unavailable: dns_error"))
	assert.Equal(t, "100%25 %C3%BC%0D%0A~", exchange.GRPCMessage("100% ü\r\n~"))
}
