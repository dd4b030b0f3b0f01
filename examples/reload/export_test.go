package reload

import (
	"net/http"
	"reflect"
	"testing"

	"github.com/hostproxy/hostproxy"
)

// Snake exports snake.
func Snake(name string) string { return snake(name) }

// Differ returns the number of settings that differ.
func Differ(from, to *Config) int { return len(changed(from, to)) }

// Ours exports ours.
func Ours(t reflect.Type) bool { return ours(t) }

func builder(c *Config) *planner {
	f := &file{Config: *c, name: "proxy.yaml", read: map[string]contents{}}
	return &planner{plan: &plan{file: f}, old: new(plan), encode: newEncoder(), used: map[string]bool{}}
}

// NewUpstream returns the Upstream that c becomes, unchecked.
func NewUpstream(c *Upstream) *hostproxy.Upstream {
	return builder(new(Config)).fresh(c, "upstreams", "a")
}

// NewTLS does the same for TLS.
func NewTLS(c *TLS) hostproxy.TLS { return builder(&Config{TLS: *c}).planTLS() }

// NewHost does the same for the settings of a host.
func NewHost(c *HostTLS) hostproxy.HostTLS {
	return builder(new(Config)).host("localhost", c, "tls", "hosts", "localhost")
}

// NewServer does the same for a Server and its Router.
func NewServer(t *testing.T, c *Config) *hostproxy.Server {
	s := &serving{p: new(Proxy), logs: newLogs(t.Output()), named: map[string]http.Handler{}}
	b := builder(c)
	b.planRouter()
	s.prepare(b.plan)
	return s.server
}

// Bindable exports bindable.
func Bindable(addr string) error { return bindable(addr) }

// Machine tests this machine, as Check does.
func Machine(c *Checked) (notes string, err error) { return c.plan.machine(nil) }
