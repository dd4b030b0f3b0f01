package e2e_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A client may reset its stream or disconnect at any moment: the target
// notices, and the record has it.
func TestAClientMayLeaveAtAnyMomentOverHTTP2(t *testing.T) {
	type moment struct {
		name, path string
		upload     bool
		when       string // "at once", "asked", "answered"
	}
	moments := []moment{
		{"at once", "/wait", false, "at once"},
		{"before the answer", "/wait", false, "asked"},
		{"before the answer, in an upload", "/wait", true, "asked"},
		{"in a sized answer", "/sized", false, "answered"},
		{"in a chunked answer", "/chunked", false, "answered"},
		{"in an answer that comes early", "/chunked", true, "answered"},
		{"in a large answer that is not read", "/large", false, "answered"},
	}
	for _, host := range []string{"fast.test", "odd.test", "h2c.test"} {
		for _, m := range moments {
			for _, how := range []string{"reset", "close"} {
				t.Run(host+" "+m.name+" "+how, func(t *testing.T) {
					proxytest.NoLeaks(t)
					asked, left := make(chan struct{}, 10), make(chan struct{}, 10)
					h := fullDuplex(func(w http.ResponseWriter, q *http.Request) {
						asked <- struct{}{}
						switch q.URL.Path {
						case "/sized":
							w.Header().Set("Content-Length", "100000")
							io.WriteString(w, "some")
							w.(http.Flusher).Flush()
						case "/chunked":
							io.WriteString(w, "some")
							w.(http.Flusher).Flush()
						case "/large":
							for q.Context().Err() == nil {
								_, _ = w.Write(make([]byte, 64<<10))
							}
						}
						if _, err := io.Copy(io.Discard, q.Body); err == nil {
							<-q.Context().Done()
						}
						left <- struct{}{}
					})
					var target *proxytest.Server
					var u *hostproxy.Upstream
					if host == "h2c.test" {
						target = proxytest.NewH2CServer(t, h)
						u = hostproxy.To("h2c://" + target.Addr())
					} else {
						target = proxytest.NewServer(t, h)
						u = hostproxy.To(target.Addr())
					}
					if host == "odd.test" {
						u.ModifyResponse = func(*http.Response) error { return nil }
					}
					r := hostproxy.Router{Logger: silent()}
					records := make(chan hostproxy.Exchange, 10)
					r.Observe = func(x *hostproxy.Exchange) { records <- *x }
					r.Handle(host, u)
					config, roots := proxytest.TLS(t, host)
					r.TLS.Config = config
					server := proxytest.Start(t, &hostproxy.Server{Router: &r})
					c, err := tls.Dial("tcp", server.HTTPS, &tls.Config{RootCAs: roots, ServerName: host, NextProtos: []string{"h2"}})
					require.NoError(t, err)
					defer c.Close()
					var out, block bytes.Buffer
					f := http2.NewFramer(&out, c)
					enc := hpack.NewEncoder(&block)
					out.WriteString(http2.ClientPreface)
					_ = f.WriteSettings()
					method := "GET"
					if m.upload {
						method = "POST"
					}
					for _, pair := range [][2]string{{":method", method}, {":scheme", "https"}, {":authority", host}, {":path", m.path}} {
						_ = enc.WriteField(hpack.HeaderField{Name: pair[0], Value: pair[1]})
					}
					_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: !m.upload, EndHeaders: true})
					if m.upload {
						_ = f.WriteData(1, false, []byte("xx"))
					}
					if m.when == "at once" && how == "reset" {
						_ = f.WriteRSTStream(1, http2.ErrCodeCancel)
					}
					_, err = c.Write(out.Bytes())
					require.NoError(t, err)
					out.Reset()
					switch m.when {
					case "asked":
						<-asked
					case "answered":
						<-asked
						for {
							fr, err := f.ReadFrame()
							require.NoError(t, err)
							if fr.Header().Type == http2.FrameData {
								break
							}
						}
					}
					stills, start := proxytest.WatchStandstills(t), time.Now()
					if how == "close" {
						c.Close()
					} else if m.when != "at once" {
						_ = f.WriteRSTStream(1, http2.ErrCodeCancel)
						_, err = c.Write(out.Bytes())
						require.NoError(t, err)
					}
					var x hostproxy.Exchange
					select {
					case x = <-records:
					case <-time.After(proxytest.Patience):
						t.Fatal("no record")
					}
					took := time.Since(start) - stills.Total()
					assert.Equal(t, 499, x.Status)
					assert.Error(t, x.Err)
					assert.Less(t, took, 3*time.Second)
					if m.when != "at once" || len(asked) > 0 {
						select {
						case <-left:
						case <-time.After(proxytest.Patience):
							t.Error("the target was not told")
						}
					}
					t.Log(took)
					c.Close()
					require.NoError(t, server.Stop())
				})
			}
		}
	}
}
