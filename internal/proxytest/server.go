package proxytest

import (
	"bytes"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
)

// A Server is an HTTP backend that records its requests.
type Server struct {
	*httptest.Server

	mu   sync.Mutex
	seen []*seen
}

// A Seen is one request as the handler saw it. Content and Trailer hold what
// the handler read of them; Content is empty for requests with Expect.
type Seen struct {
	Method, Target, Host, Proto, RemoteAddr string
	Header, Trailer                         http.Header
	Content                                 string
}

// seen is a request whose body may still be arriving. The server's mu guards
// it.
type seen struct {
	Seen
	content bytes.Buffer
}

// NewServer starts an HTTP/1.1 backend. A nil h reads the body and answers 200
// with "ok".
func NewServer(t testing.TB, h http.Handler) *Server {
	t.Helper()
	s := newServer(t, h)
	s.Start()
	return s
}

// NewH2CServer starts a backend that serves only HTTP/2 with prior knowledge
// over plain TCP.
func NewH2CServer(t testing.TB, h http.Handler) *Server {
	t.Helper()
	s := newServer(t, h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	return s
}

// NewTLSServer starts a backend that serves HTTP/1.1 and HTTP/2 over TLS. roots
// verifies its certificate for the loopback addresses and localhost.
func NewTLSServer(t testing.TB, h http.Handler) (s *Server, roots *x509.CertPool) {
	t.Helper()
	s = newServer(t, h)
	config, roots := TLS(t)
	s.TLS = config
	// like an http.Server; httptest would omit the latter
	s.TLS.NextProtos = []string{"h2", "http/1.1"}
	s.EnableHTTP2 = true
	s.StartTLS()
	return s, roots
}

// NewUnixServer starts an HTTP/1.1 backend on a unix socket at path.
func NewUnixServer(t testing.TB, path string, h http.Handler) *Server {
	t.Helper()
	s := newServer(t, h)
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatalf("proxytest: listen: %v", err)
	}
	s.Listener.Close()
	s.Listener = ln
	s.Start()
	return s
}

func newServer(t testing.TB, h http.Handler) *Server {
	t.Helper()
	s := new(Server)
	if h == nil {
		h = http.HandlerFunc(answerOK)
	}
	s.Server = httptest.NewUnstartedServer(s.record(h))
	s.Config.ReadHeaderTimeout = Patience
	s.Config.ErrorLog = log.New(t.Output(), "", 0)
	t.Cleanup(s.close)
	return s
}

// Addr returns the host:port on which s listens.
func (s *Server) Addr() string { return s.Listener.Addr().String() }

// Seen returns all requests so far, including those still being served.
func (s *Server) Seen() []Seen {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Seen, 0, len(s.seen))
	for _, q := range s.seen {
		q.Content = q.content.String()
		all = append(all, q.Seen)
	}
	return all
}

// Last returns the newest request. The test fails if there is none.
func (s *Server) Last(t testing.TB) Seen {
	t.Helper()
	all := s.Seen()
	if len(all) == 0 {
		t.Fatal("proxytest: the backend saw no request")
	}
	return all[len(all)-1]
}

func (s *Server) record(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r := &seen{Seen: Seen{
			Method: q.Method, Target: q.RequestURI, Host: q.Host, Proto: q.Proto, RemoteAddr: q.RemoteAddr,
			Header: q.Header.Clone(),
		}}
		s.mu.Lock()
		s.seen = append(s.seen, r)
		s.mu.Unlock()
		defer func() {
			s.mu.Lock()
			r.Trailer = q.Trailer.Clone()
			s.mu.Unlock()
		}()
		// net/http requests a body whose type it does not know, even if the
		// handler does not read it
		if q.Header.Get("Expect") != "" {
			h.ServeHTTP(w, q)
			return
		}
		q.Body = &recordedBody{q.Body, s, r}
		h.ServeHTTP(w, q)
	})
}

// recordedBody copies what the handler reads into the record.
type recordedBody struct {
	io.ReadCloser
	server *Server
	seen   *seen
}

func (b *recordedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.server.mu.Lock()
	b.seen.content.Write(p[:n])
	b.server.mu.Unlock()
	return n, err
}

// close closes the connections first, so that it ends even if a handler hangs.
func (s *Server) close() {
	s.CloseClientConnections()
	s.Close()
}

func answerOK(w http.ResponseWriter, q *http.Request) {
	_, _ = io.Copy(io.Discard, q.Body)
	_, _ = io.WriteString(w, "ok")
}
