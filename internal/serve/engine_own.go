//go:build ownhttp2

package serve

// ownHTTP2 lets HTTP/2 be served by conn2, rather than by net/http.
const ownHTTP2 = true
