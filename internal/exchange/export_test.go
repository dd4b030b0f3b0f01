package exchange

// GRPCStatus and GRPCMessage are what gRPC clients are told of an HTTP error.
var GRPCStatus, GRPCMessage = grpcStatus, grpcMessage
