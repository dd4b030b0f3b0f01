package forward

import "github.com/hostproxy/hostproxy/internal/pool"

// A Doer is what a target is asked through.
type Doer = doer

// NewClient returns the built-in HTTP/1.1 client.
func NewClient(p *pool.Pool, c *Config) Doer { return newClient(p, c) }

// GRPCStatus and GRPCMessage are what gRPC clients are told of an HTTP error.
var GRPCStatus, GRPCMessage = grpcStatus, grpcMessage

// CutOff is the error of a drain that could not wait any longer.
var CutOff = cutOff
