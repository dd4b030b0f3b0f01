package otel

import "github.com/hostproxy/hostproxy"

// FullURL returns the URL of an attempt.
func FullURL(x *hostproxy.Exchange, target string) string { return new(Tracer).fullURL(x, target) }
