package neighbours_test

// A deviation is a difference of a hostproxy.Server from net/http that a
// handler or its client can notice. A test that meets one asserts what happens
// instead. So if a deviation disappears, a test fails, and the deviation is
// removed here.
type deviation func(place) bool

// deviates reports whether d holds at p.
func (p place) deviates(d deviation) bool { return p.server != netHTTP && d(p) }

// nobodyPushes: over HTTP/2, net/http's writer has Push, which clients no
// longer support. Ours has ReadFrom instead.
func nobodyPushes(p place) bool { return p.protocol == h2 }

// maxBytesKeepsConnections: http.MaxBytesReader tells net/http's writer by an
// unexported method that a body is too large. The connection then closes even
// if the rest of the body is short. No other writer can have that method. If
// the rest of the body is long or does not come, the connection closes with
// ours too.
func maxBytesKeepsConnections(p place) bool { return p.protocol != h2 }

// routesHaveTheirWriter: the writer of a route always has CloseNotify, Flush,
// FlushError, Hijack, ReadFrom and WriteString, and passes these calls on. Over
// HTTP/2, its Hijack fails with http.ErrNotSupported.
func routesHaveTheirWriter(p place) bool { return p.server == aRoute && p.protocol == h2 }
