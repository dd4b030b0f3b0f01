package exchange

// GRPCStatus and GRPCMessage translate an HTTP error for gRPC clients, and
// GRPCTimeout parses their timeouts.
var GRPCStatus, GRPCMessage, GRPCTimeout = grpcStatus, grpcMessage, grpcTimeout
