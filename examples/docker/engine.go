package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Limits of the daemon's answers, in bytes.
const (
	maxAnswer    = 64 << 20
	maxContainer = 4 << 20 // up to eight are read at the same time
	maxEvent     = 1 << 20
)

// errGone means that the daemon does not know the container.
var errGone = errors.New("no such container")

// An engine is a daemon with the Docker Engine API: Docker, Podman, or a proxy
// in front of one.
type engine struct {
	client   *http.Client
	name     string        // the address as the user gave it
	base     string        // URL without a path
	patience time.Duration // time limit for one answer, except for the event stream
}

// newEngine returns the engine at host, which is unix:///path or
// tcp://host:port. It does not connect.
func newEngine(host string) (*engine, error) {
	u, err := url.Parse(host)
	if err != nil {
		return nil, fmt.Errorf("daemon %q: %w", host, err)
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	t := &http.Transport{DialContext: dialer.DialContext, ResponseHeaderTimeout: 10 * time.Second, IdleConnTimeout: time.Minute}
	e := &engine{client: &http.Client{Transport: t, CheckRedirect: stay}, name: host, base: "http://docker", patience: 10 * time.Second}
	switch plain := u.User == nil && u.RawQuery == "" && u.Fragment == ""; {
	case plain && u.Scheme == "unix" && u.Host == "" && strings.HasPrefix(u.Path, "/"):
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", u.Path)
		}
	case plain && u.Scheme == "tcp" && u.Port() != "" && strings.Trim(u.Path, "/") == "":
		e.base = "http://" + u.Host
	default:
		return nil, fmt.Errorf("daemon %q: want unix:///path/to/docker.sock, or tcp://host:port for a socket proxy; TLS and ssh are not supported", host)
	}
	return e, nil
}

// stay does not follow redirects: the daemon sends none.
func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// findSocket returns the first existing socket in the usual places of Docker
// and Podman, or Docker's place if there is none yet.
func findSocket() string {
	places := []string{"/var/run/docker.sock", "/run/podman/podman.sock"}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		places = append(places, filepath.Join(dir, "docker.sock"), filepath.Join(dir, "podman/podman.sock"))
	}
	if dir, err := os.UserHomeDir(); err == nil {
		places = append(places, filepath.Join(dir, ".docker/run/docker.sock")) // Docker Desktop
	}
	for _, p := range places {
		if _, err := os.Stat(p); err == nil {
			return "unix://" + p
		}
	}
	return "unix://" + places[0]
}

// A container holds the fields of the daemon's answer that matter here.
type container struct {
	ID      string `json:"Id"`
	Name    string
	Created time.Time
	State   struct {
		Status string
		Health *struct{ Status string }
	}
	Config struct {
		Hostname     string
		Labels       map[string]string
		ExposedPorts map[string]struct{}
	}
	HostConfig      struct{ NetworkMode string }
	NetworkSettings struct {
		Ports    map[string][]binding
		Networks map[string]attachment
	}
}

// A binding is an address where a port of a container is published on the host.
type binding struct{ HostIP, HostPort string }

// An attachment is a container's address on one network.
type attachment struct{ IPAddress, GlobalIPv6Address, Gateway, IPv6Gateway string }

// list returns the IDs of running containers with one of our labels.
func (e *engine) list(ctx context.Context) (ids []string, err error) {
	var all []struct {
		ID     string `json:"Id"`
		Labels map[string]string
	}
	if err := e.get(ctx, "/containers/json", maxAnswer, &all); err != nil {
		return nil, err
	}
	for _, c := range all {
		if labelled(c.Labels) {
			ids = append(ids, c.ID)
		}
	}
	return ids, nil
}

// inspect returns a container by its ID or name.
func (e *engine) inspect(ctx context.Context, id string) (*container, error) {
	c := new(container)
	if err := e.get(ctx, "/containers/"+url.PathEscape(id)+"/json", maxContainer, c); err != nil {
		return nil, err
	}
	if c.ID == "" {
		return nil, fmt.Errorf("the answer for container %.64q has no ID", id)
	}
	c.Name = strings.TrimPrefix(c.Name, "/")
	return c, nil
}

// get reads the answer to a GET, up to limit bytes, into v.
func (e *engine) get(ctx context.Context, path string, limit int64, v any) error {
	ctx, cancel := context.WithTimeout(ctx, e.patience)
	defer cancel()
	p, err := e.open(ctx, path)
	if err != nil {
		return err
	}
	defer p.Close()
	if err := json.NewDecoder(io.LimitReader(p, limit)).Decode(v); err != nil {
		return fmt.Errorf("GET %s: not the JSON of a Docker Engine API: %w", path, err)
	}
	return nil
}

// open returns the body of the answer to a GET.
func (e *engine) open(ctx context.Context, path string) (io.ReadCloser, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, e.base+path, nil)
	if err != nil {
		return nil, err
	}
	p, err := e.client.Do(q)
	if errors.Is(err, os.ErrPermission) {
		err = fmt.Errorf("%w: give the proxy the group of the socket, or use a socket proxy", err)
	}
	if err != nil {
		return nil, err
	}
	if p.StatusCode == http.StatusOK {
		return p.Body, nil
	}
	defer p.Body.Close()
	if p.StatusCode == http.StatusNotFound && strings.HasPrefix(path, "/containers/") {
		return nil, errGone
	}
	text, _ := io.ReadAll(io.LimitReader(p.Body, 200))
	return nil, fmt.Errorf("GET %s: status %d %q", path, p.StatusCode, strings.TrimSpace(string(text)))
}

// An event is something that happened to a container or a network.
type event struct {
	Action string
	Actor  struct {
		ID         string
		Attributes struct{ Signal string }
	}
}

// events connects to the event stream. The returned function reads it, calls
// seen for each event, and returns why the stream ended.
func (e *engine) events(ctx context.Context) (read func(seen func(event)) error, err error) {
	filter := url.QueryEscape(`{"type":["container","network"]}`)
	body, err := e.open(ctx, "/events?filters="+filter)
	if err != nil {
		return nil, err
	}
	return func(seen func(event)) error {
		defer body.Close()
		lines := bufio.NewScanner(body)
		lines.Buffer(nil, maxEvent)
		for lines.Scan() {
			if len(bytes.TrimSpace(lines.Bytes())) == 0 {
				continue // a keep-alive line
			}
			var ev event
			if err := json.Unmarshal(lines.Bytes(), &ev); err != nil {
				return fmt.Errorf("an event is not JSON: %.100q", lines.Text())
			}
			seen(ev)
		}
		if err := lines.Err(); err != nil {
			return fmt.Errorf("the events have ended: %w", err)
		}
		return errors.New("the daemon has ended the events")
	}, nil
}
