package otel

import "github.com/hostproxy/hostproxy"

// FullURL exports the computation of an attempt's URL.
func FullURL(x *hostproxy.Exchange, target string) string { return new(Tracer).fullURL(x, target) }
