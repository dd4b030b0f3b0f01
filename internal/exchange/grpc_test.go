package exchange_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/internal/exchange"
)

// The codes are those of google.golang.org/grpc/codes.
func TestEveryStatusHasAGRPCStatus(t *testing.T) {
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

func TestAGRPCTimeoutIsRead(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"1H": time.Hour, "2M": 2 * time.Minute, "3S": 3 * time.Second, "99999999m": 99999999 * time.Millisecond, "50u": 50 * time.Microsecond, "0n": 0,
	} {
		got, ok := exchange.GRPCTimeout(s)
		assert.True(t, ok, s)
		assert.Equal(t, want, got, s)
	}
	for _, s := range []string{"", "5", "S", "-1S", "+1S", "1s", "1.5S", "100000000S", "99999999H", "1 S", "0x1S"} {
		_, ok := exchange.GRPCTimeout(s)
		assert.False(t, ok, s)
	}
}

func TestAGRPCStreamEndsByAStatus(t *testing.T) {
	const grpc = "application/grpc+proto"
	for _, tt := range []struct {
		name, asks, gets string
		timeout          string
		failure          exchange.Failure
		code             string // "" if the client must be cut off
	}{
		{"the target has died", grpc, grpc, "", exchange.Failure{Side: exchange.SideUpstream, Err: io.ErrUnexpectedEOF}, "14"},
		{"its time was up", grpc, grpc, "1m", exchange.Failure{Side: exchange.SideUpstream, Err: io.ErrUnexpectedEOF}, "4"},
		{"a shutdown", grpc, grpc, "", exchange.Failure{Side: exchange.SideDrain, Err: exchange.ErrCut}, "14"},
		{"a deadline of the proxy", grpc, grpc, "", exchange.Failure{Side: exchange.SideProxy, Err: exchange.ErrDeadline}, "4"},
		{"a hook that panics", grpc, grpc, "", exchange.Failure{Side: exchange.SideProxy, Err: io.ErrNoProgress}, "13"},
		{"the client has left", grpc, grpc, "", exchange.Failure{Side: exchange.SideClient, Err: io.EOF}, ""},
		{"another response", grpc, "text/html", "", exchange.Failure{Side: exchange.SideUpstream, Err: io.EOF}, ""},
		{"another client", "application/json", grpc, "", exchange.Failure{Side: exchange.SideUpstream, Err: io.EOF}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q := httptest.NewRequest("POST", "/x.Y/Z", nil)
			q.ProtoMajor = 2
			q.Header.Set("Content-Type", tt.asks)
			q.Header.Set("Grpc-Timeout", tt.timeout)
			w := httptest.NewRecorder()
			w.Header().Set("Content-Type", tt.gets)
			tt.failure.Reason = "http_response_incomplete"
			x := &exchange.Exchange{}
			x.Start = time.Now().Add(-time.Minute)
			assert.Equal(t, tt.code != "", exchange.EndGRPC(w, q, x, &tt.failure))
			assert.Equal(t, tt.code, w.Header().Get(http.TrailerPrefix+"Grpc-Status"))
		})
	}
}
