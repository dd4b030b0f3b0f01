package exchange

// Idempotent reports whether a request of that method may be carried out twice
// (RFC 9110, 9.2.2).
func Idempotent(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}

// Hedgeable reports whether a request of that method may be sent to two targets
// at once, if it has no body.
func Hedgeable(method string) bool { return method == "GET" || method == "HEAD" }
