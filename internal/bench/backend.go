package main

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// A backendKind selects a server behind the proxies.
type backendKind int

const (
	// serves bodies from memory and files; goBackend replaces it if nginx is
	// missing
	nginxBackend backendKind = iota
	goBackend                // does what nginx cannot: read uploads, wait, send chunks, echo
)

// smallBody is the body of the small rows, 45 bytes.
const smallBody = "a small body of exactly five and forty bytes."

// files returns the large bodies' names and sizes.
func files() map[string]int64 {
	return map[string]int64{"16k": 16 << 10, "100k": 100_000, "1m": 1 << 20, "100m": 100 << 20}
}

// startBackend starts a backend on the given CPUs and returns its address.
func startBackend(ctx context.Context, k backendKind, dir, self string, cpus []int) (*process, string, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, "", err
	}
	argv := []string{self, serveCommand, "-as", backendName, "-listen", addr}
	if k == nginxBackend {
		if err := writeFiles(filepath.Join(dir, "files")); err != nil {
			return nil, "", err
		}
		v := nginxSettings{Root: os.Geteuid() == 0, Dir: dir, Listen: addr, Workers: len(cpus)}
		if argv, err = nginxCommand(dir, nginxBackendConf, v); err != nil {
			return nil, "", err
		}
	}
	p, err := startProcess(ctx, "backend", cpus, addr, argv)
	return p, addr, err
}

// writeFiles creates the large bodies. They are sparse, but the page cache
// still holds their zeroes.
func writeFiles(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for name, size := range files() {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if err := f.Truncate(size); err != nil {
			f.Close()
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

// backendHandler returns the handler of the Go backend.
func backendHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/small", func(w http.ResponseWriter, q *http.Request) { io.WriteString(w, smallBody) })
	// for peers that do not strip the prefix
	mux.Handle(stripped+"/", http.StripPrefix(stripped, mux))
	mux.HandleFunc("/slow", serveSlow)
	mux.HandleFunc("/upload", serveUpload)
	mux.HandleFunc("/chunked", serveChunked)
	mux.HandleFunc("/echo", serveEcho)
	mux.HandleFunc("/echo-websocket", serveWebSocket)
	mux.HandleFunc(unaryPath, serveUnary)
	for name, size := range files() {
		mux.HandleFunc("/"+name, func(w http.ResponseWriter, q *http.Request) { serveZeroes(w, size) })
	}
	return mux
}

func serveSlow(w http.ResponseWriter, q *http.Request) {
	select {
	case <-time.After(slowAnswer):
		io.WriteString(w, smallBody)
	case <-q.Context().Done():
	}
}

// serveUpload reads the whole body and answers with its length.
func serveUpload(w http.ResponseWriter, q *http.Request) {
	n, err := io.Copy(io.Discard, q.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	fmt.Fprintf(w, "%s %d bytes\n", q.Method, n)
}

// serveChunked answers with 16 KiB in four chunks, without a length.
func serveChunked(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain")
	chunk := make([]byte, 4<<10)
	for range 4 {
		w.Write(chunk)
	}
}

// unaryPath is a gRPC method that answers one message with another.
const unaryPath = "/bench.Echo/Unary"

// serveUnary answers with the message that it receives.
func serveUnary(w http.ResponseWriter, q *http.Request) {
	message, err := io.ReadAll(q.Body)
	if err != nil {
		return
	}
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status")
	http.NewResponseController(w).Flush() // a gRPC response has no length
	w.Write(message)
	w.Header().Set("Grpc-Status", "0")
}

func serveZeroes(w http.ResponseWriter, size int64) {
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	w.Header().Set("Content-Type", "text/plain")
	chunk := make([]byte, 64<<10)
	for size > 0 {
		n, err := w.Write(chunk[:min(size, int64(len(chunk)))])
		if err != nil {
			return
		}
		size -= int64(n)
	}
}

// serveEcho answers with the forwarding headers that arrived, as nginx does.
func serveEcho(w http.ResponseWriter, q *http.Request) {
	get := func(name string) string { return strings.Join(q.Header.Values(name), ", ") }
	fmt.Fprintf(w, "for=%s proto=%s host=%s real=%s via=%s\n", get("X-Forwarded-For"), get("X-Forwarded-Proto"),
		get("X-Forwarded-Host"), get("X-Real-Ip"), get("Via"))
}

// serveWebSocket accepts any WebSocket and echoes its bytes unchanged. So
// frames stay masked, which a WebSocket client would refuse. To a proxy, all of
// them are just bytes.
func serveWebSocket(w http.ResponseWriter, q *http.Request) {
	if !strings.EqualFold(q.Header.Get("Upgrade"), "websocket") {
		http.Error(w, "want Upgrade: websocket", http.StatusUpgradeRequired)
		return
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer conn.Close()
	fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		acceptKey(q.Header.Get("Sec-WebSocket-Key")))
	if rw.Flush() != nil {
		return
	}
	buffer := make([]byte, 4<<10)
	for {
		n, err := rw.Read(buffer)
		if err != nil {
			return
		}
		if _, err := conn.Write(buffer[:n]); err != nil {
			return
		}
	}
}

// acceptKey returns Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455,
// 4.2.2).
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// hostOf returns the host of an address that has a port.
func hostOf(addr string) string {
	host, _, _ := net.SplitHostPort(addr)
	return host
}

// portOf returns the port of an address that has one.
func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}
