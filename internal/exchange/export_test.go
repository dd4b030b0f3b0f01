package exchange

// GRPCStatus and GRPCMessage are what gRPC clients are told of an HTTP error,
// and GRPCTimeout reads how long they wait.
var GRPCStatus, GRPCMessage, GRPCTimeout = grpcStatus, grpcMessage, grpcTimeout
