package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// A place describes where the proxy runs. This decides how it reaches a
// container.
type place struct {
	id       string   // the proxy's own container; "" on the host
	onHost   bool     // true on the host, and in a container that uses the host's network
	direct   bool     // on the host: container addresses are reachable too
	networks []string // in a container: the networks that it is on, sorted
	gateway  string   // in a container: address of the host; "" if unknown
	network  string   // preferred network (-network); "" means none
}

// mounted matches the ID of a container in its list of mounts. Read-only.
var mounted = regexp.MustCompile(`/containers/([0-9a-f]{64})/`)

// selves returns the names that the daemon may know the proxy's own container
// by.
func selves() (names []string) {
	if name, err := os.Hostname(); err == nil && name != "" {
		names = append(names, name)
	}
	for _, file := range []string{"/proc/self/mountinfo", "/run/.containerenv"} {
		text, _ := os.ReadFile(file)
		if m := mounted.FindSubmatch(text); m != nil {
			names = append(names, string(m[1]))
		}
		if _, after, ok := strings.Cut(string(text), "\nid=\""); ok { // a file that Podman writes
			id, _, _ := strings.Cut(after, `"`)
			names = append(names, id)
		}
	}
	return names
}

// hostPlace returns the place of a proxy that runs on the host.
func hostPlace(network string) place {
	return place{onHost: true, direct: runtime.GOOS == "linux", network: network}
}

// own reports whether c is the proxy's own container. The daemon returned c for
// name, one of selves, but another container may have this host name as its
// name.
func own(c *container, name string) bool {
	return strings.HasPrefix(c.ID, name) || c.Config.Hostname == name
}

// chosen takes the place of own for a name given by -self.
func chosen(*container, string) bool { return true }

// locate returns the place of the first container that has one of names and
// that own accepts.
func locate(ctx context.Context, e *engine, names []string, own func(*container, string) bool, network string) (place, error) {
	for _, name := range names {
		c, err := e.inspect(ctx, name)
		if errors.Is(err, errGone) {
			continue
		}
		if err != nil {
			return place{}, fmt.Errorf("looking for the proxy's own container: %w", err)
		}
		if !own(c, name) {
			continue
		}
		if c.HostConfig.NetworkMode == "host" {
			p := hostPlace(network)
			p.id = c.ID
			return p, nil
		}
		p := place{id: c.ID, networks: slices.Sorted(maps.Keys(c.NetworkSettings.Networks)), network: network}
		for _, n := range p.networks {
			a := c.NetworkSettings.Networks[n]
			for _, g := range []string{a.Gateway, a.IPv6Gateway} {
				if p.gateway == "" && net.ParseIP(g) != nil {
					p.gateway = g
				}
			}
		}
		return p, nil
	}
	return place{}, fmt.Errorf("the proxy runs in a container, but the daemon knows none of %q: give its name with -self, or write -self host if the daemon runs in the same container", names)
}

// target returns the URL at which the proxy reaches c.
func (p place) target(c *container, w wishes) (string, error) {
	port, err := w.portOf(c)
	if err != nil {
		return "", err
	}
	host := ""
	switch mode := c.HostConfig.NetworkMode; {
	case c.ID == p.id:
		err = errors.New("this is the proxy itself: remove its labels")
	case mode == "host" && w.network == "":
		host, err = p.hostAddr()
	case mode == "none" || strings.HasPrefix(mode, "container:"):
		err = fmt.Errorf("it has the network mode %.80q, and so no address of its own: put it on a network, or the labels on the container whose network it uses", mode)
	case p.onHost && w.network == "":
		host, port, err = p.published(c, port)
	default:
		host, err = p.shared(c, w.network)
	}
	if err != nil {
		return "", err
	}
	return w.settings.scheme + "://" + net.JoinHostPort(host, port), nil
}

// portOf returns the port from the label, or the only TCP port that c exposes.
func (w wishes) portOf(c *container) (string, error) {
	if w.port != 0 {
		return strconv.Itoa(w.port), nil
	}
	ports := map[string]bool{}
	for p := range c.Config.ExposedPorts {
		ports[p] = true
	}
	for p := range c.NetworkSettings.Ports {
		ports[p] = true
	}
	var tcp []string
	for p := range ports {
		if n, ok := strings.CutSuffix(p, "/tcp"); ok {
			tcp = append(tcp, n)
		}
	}
	slices.Sort(tcp)
	switch len(tcp) {
	case 1:
		n, err := strconv.ParseUint(tcp[0], 10, 16)
		if err != nil || n == 0 {
			return "", fmt.Errorf("it exposes %.80q, which is no port: set hostproxy.port", tcp[0])
		}
		return fmt.Sprint(n), nil
	case 0:
		return "", errors.New("it exposes no TCP port: say with hostproxy.port on which one it listens")
	}
	return "", fmt.Errorf("it exposes the ports %.200s: say with hostproxy.port which one is meant", strings.Join(tcp, ", "))
}

// hostAddr returns the host's address, for containers that use its network.
func (p place) hostAddr() (string, error) {
	switch {
	case p.onHost:
		return "127.0.0.1", nil
	case p.gateway != "":
		return p.gateway, nil
	}
	return "", errors.New("it uses the host's network, and none of the proxy's networks has a gateway to the host: put both on one network")
}

// published returns the host and port where port of c is published. If it is
// not published, it returns the address of c, provided that the host can reach
// it.
func (p place) published(c *container, port string) (string, string, error) {
	for _, b := range c.NetworkSettings.Ports[port+"/tcp"] {
		n, err := strconv.ParseUint(b.HostPort, 10, 16)
		if err != nil || n == 0 {
			continue
		}
		ip, at := net.ParseIP(b.HostIP), fmt.Sprint(n)
		switch {
		case b.HostIP == "" || ip != nil && ip.To4() != nil && ip.IsUnspecified():
			return "127.0.0.1", at, nil
		case ip != nil && ip.IsUnspecified():
			return "::1", at, nil
		case ip != nil:
			return ip.String(), at, nil
		}
	}
	rule := fmt.Errorf("port %s is not published, and the proxy runs on the host: publish it (-p 127.0.0.1::%s), or run the proxy in a container", port, port)
	if !p.direct {
		return "", "", rule
	}
	host, err := p.shared(c, "")
	if err != nil {
		return "", "", rule
	}
	return host, port, nil
}

// shared returns the address of c on the network label, or else on the -network
// network, or else on the first network that both are on.
func (p place) shared(c *container, label string) (string, error) {
	nets := c.NetworkSettings.Networks
	names := slices.Sorted(maps.Keys(nets))
	has := func(n string) bool { _, ok := nets[n]; return ok }
	reachable := func(n string) bool { return has(n) && (p.onHost || slices.Contains(p.networks, n)) }
	name := ""
	switch composed := c.Config.Labels[project] + "_" + label; {
	case label != "" && !has(label) && !has(composed):
		return "", fmt.Errorf("label hostproxy.network is %.100q, and it is on the networks %.200q: name one of these", label, names)
	case label != "":
		if name = label; !has(name) {
			name = composed
		}
		if !reachable(name) {
			return "", fmt.Errorf("label hostproxy.network is %.100q, which the proxy is not on (it is on %.200q): connect it, or name a network that both are on", label, p.networks)
		}
	case p.network != "" && reachable(p.network):
		name = p.network
	default:
		at := slices.IndexFunc(names, reachable)
		if at < 0 {
			return "", fmt.Errorf("it is on the networks %.200q, and the proxy on %.200q: put both on one network (docker network connect NETWORK %s)", names, p.networks, c.Name)
		}
		name = names[at]
	}
	for _, a := range []string{nets[name].IPAddress, nets[name].GlobalIPv6Address} {
		if ip := net.ParseIP(a); ip != nil {
			return ip.String(), nil
		}
	}
	return "", fmt.Errorf("it has no address on the network %.100q: publish the port, or put it on another network", name)
}
