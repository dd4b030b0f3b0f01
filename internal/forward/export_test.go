package forward

import "github.com/hostproxy/hostproxy/internal/pool"

// NewClient returns the built-in HTTP/1.1 client.
func NewClient(p *pool.Pool, limits Timeouts) Doer { return newClient(p, limits) }

// GRPCStatus and GRPCMessage are what gRPC clients are told of an HTTP error.
var GRPCStatus, GRPCMessage = grpcStatus, grpcMessage
