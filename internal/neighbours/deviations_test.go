package neighbours_test

// A deviation is what a handler, or its client, can tell about a
// hostproxy.Server. A test that meets one asserts what happens instead: a
// deviation that ends fails it, and goes from here.
type deviation func(place) bool

// deviates reports whether d holds at p.
func (p place) deviates(d deviation) bool { return p.server != netHTTP && d(p) }

// nobodyPushes: over HTTP/2 the writer of net/http has Push, which clients no
// longer support, and ours has ReadFrom.
func nobodyPushes(p place) bool { return p.protocol == h2 }

// maxBytesKeepsConnections: http.MaxBytesReader tells the writer that a body is
// too large, so that the connection closes even if the rest of the body would
// be short, by a method that is not exported: no writer but net/http's can have
// it. A body whose rest is long, or does not come, closes the connection all
// the same.
func maxBytesKeepsConnections(p place) bool { return p.protocol != h2 }

// routesHaveTheirWriter: the writer that a route gets always has CloseNotify,
// Flush, FlushError, Hijack, ReadFrom and WriteString, and passes them on. Over
// HTTP/2 its Hijack fails with http.ErrNotSupported.
func routesHaveTheirWriter(p place) bool { return p.server == aRoute && p.protocol == h2 }
