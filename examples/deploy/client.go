package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"path/filepath"
	"syscall"
	"time"
)

// A reply is the proxy's answer to a request.
type reply struct {
	Text  string `json:"text,omitempty"`  // text to print
	Error string `json:"error,omitempty"` // why the command failed
	Retry bool   `json:"retry,omitempty"` // another process will answer soon
}

// socketName is the name of the socket in the proxy's directory.
const socketName = "control.sock"

// retryFor limits how long a command is retried while the proxy hands over.
const retryFor = 20 * time.Second

// ask sends q to the proxy of dir and returns the text to print.
func ask(dir string, q request) (string, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return "", err
	}
	pause := time.NewTicker(100 * time.Millisecond)
	defer pause.Stop()
	for end := time.Now().Add(retryFor); ; <-pause.C {
		p, err := send(dir, body)
		switch {
		case err != nil:
			return "", err
		case p.Retry && time.Now().Before(end):
			continue
		case p.Error != "":
			return "", errors.New(p.Error)
		}
		return p.Text, nil
	}
}

// send sends a request once, on a new connection.
func send(dir string, body []byte) (p reply, err error) {
	path := filepath.Join(dir, socketName)
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	defer transport.CloseIdleConnections()
	q, err := http.NewRequest("POST", "http://deploy/", bytes.NewReader(body))
	if err != nil {
		return p, err
	}
	answer, err := transport.RoundTrip(q)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return p, fmt.Errorf("no proxy runs with the directory %q: start it by deploy run, or name another one by -dir (%w)", dir, err)
	case errors.Is(err, fs.ErrPermission):
		return p, fmt.Errorf("%w: only the user that runs the proxy may give commands", err)
	case err != nil:
		return p, fmt.Errorf("the proxy has not answered; see deploy list: %w", err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 64<<20))
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	if err != nil {
		return p, fmt.Errorf("the proxy's answer (%s) cannot be read; see deploy list: %w", answer.Status, err)
	}
	return p, nil
}
