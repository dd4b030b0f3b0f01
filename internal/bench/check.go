package main

import (
	"bytes"
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"regexp"
	"strings"
)

// An answer is what must be the same through every proxy.
type answer struct {
	status int
	kind   string // Content-Type
	stated int64  // Content-Length; -1 if something else ended the body
	length int64  // of the body
	sum    uint32 // of the body
}

func (a answer) String() string {
	return fmt.Sprintf("status %d, %s, %d of %d bytes, checksum %08x", a.status, a.kind, a.length, a.stated, a.sum)
}

// direct returns the backend's own answer to the row's request.
func direct(ctx context.Context, r *row, backend string) (answer, error) {
	if r.kind == messages {
		return answer{}, nil // messages are compared during the load
	}
	plain := *r
	plain.proto = h1Plain
	a, _, err := fetch(ctx, &load{row: &plain, addr: backend}, r.path)
	if err == nil && a.status != http.StatusOK {
		err = fmt.Errorf("answer is %v", a)
	}
	if err != nil {
		return a, fmt.Errorf("backend: %w", err)
	}
	return a, nil
}

// checkAlike returns an error unless the proxy at l.addr gives the wanted
// answer to the load's request, and sends correct forwarding headers to the
// backend.
func checkAlike(ctx context.Context, l *load, want answer) error {
	if err := checkForwarded(ctx, l); err != nil {
		return err
	}
	if l.kind == messages {
		return nil
	}
	got, _, err := fetch(ctx, l, l.path)
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("answer is %v, want %v", got, want)
	}
	return nil
}

// checkForwarded checks the forwarding headers that the backend saw. The
// client's own must not be among them.
func checkForwarded(ctx context.Context, l *load) error {
	echo := *l.row
	echo.method, echo.upload, echo.grpc = "", 0, false
	path := "/echo"
	if strings.HasPrefix(echo.path, stripped+"/") {
		path = stripped + path
	}
	_, text, err := fetch(ctx, &load{row: &echo, addr: l.addr}, path)
	if err != nil {
		return err
	}
	scheme := "http"
	if l.proto.secure() {
		scheme = "https"
	}
	want := fmt.Sprintf("for=127.0.0.1 proto=%s host=%s:%s real=127.0.0.1 via=", scheme, hostName, portOf(l.addr))
	if l.fewer {
		if !fewerFields.MatchString(text) {
			return fmt.Errorf("backend saw %q, want the client in X-Forwarded-For, X-Forwarded-Proto and a Via", text)
		}
		return nil
	}
	if via, ok := strings.CutPrefix(text, want); !ok || strings.TrimSpace(via) == "" {
		return fmt.Errorf("backend saw %q, want %q and a Via", text, want)
	}
	return nil
}

// fewerFields matches what the backend sees behind a peer that sets fewer
// headers.
var fewerFields = regexp.MustCompile(`^for=(.*, )?127\.0\.0\.1 proto=https host= real=.* via=\S`)

// fetch sends one request in the load's protocol. text is the beginning of the
// body.
func fetch(ctx context.Context, l *load, path string) (a answer, text string, err error) {
	t, end := l.roundTripper()
	defer end()
	scheme := "http"
	if l.proto.secure() {
		scheme = "https"
	}
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, l.verb(), fmt.Sprintf("%s://%s:%s%s", scheme, hostName, portOf(l.addr), path),
		bytes.NewReader(l.body()))
	if err != nil {
		return a, "", err
	}
	for _, f := range l.fields() {
		q.Header.Set(f.name, f.value)
	}
	q.Header.Set("X-Forwarded-For", "203.0.113.9")
	q.Header.Set("X-Real-IP", "203.0.113.9")
	resp, err := t.RoundTrip(q)
	if err != nil {
		return a, "", err
	}
	defer resp.Body.Close()
	return readAnswer(resp)
}

func readAnswer(resp *http.Response) (answer, string, error) {
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	start := make([]byte, 512)
	n, err := io.ReadFull(resp.Body, start)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return answer{}, "", err
	}
	sum.Write(start[:n])
	rest, err := io.Copy(sum, resp.Body)
	return answer{
		status: resp.StatusCode,
		kind:   resp.Header.Get("Content-Type"),
		stated: resp.ContentLength,
		length: int64(n) + rest,
		sum:    sum.Sum32(),
	}, string(start[:n]), err
}
