package caddyfile_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// Read-only.
var caddyBinary = flag.String("caddy", "", "path of a caddy binary: the samples are put to it too")

// differs has the samples that cannot be sent to Caddy, with the reason.
// Read-only.
var differs = map[string]string{"61-other-ports": "a redirect names the port, which is another one here"}

// The corpus must match Caddy. Run: go test -run Caddy -caddy /usr/bin/caddy.
func TestCaddyAnswersTheSamplesInTheSameWay(t *testing.T) {
	if *caddyBinary == "" {
		t.Skip("needs -caddy")
	}
	addresses := targets(t)
	for _, s := range samples(t) {
		t.Run(s.name, func(t *testing.T) {
			if len(s.faults) > 0 || differs[s.name] != "" {
				return
			}
			ports := startCaddy(t, addresses(s.text), addresses)
			if ports == nil {
				return
			}
			for _, e := range s.exchanges {
				e.verify(t, askOver(t, ports, e.question))
			}
		})
	}
}

// startCaddy runs Caddy with a file, on free ports instead of the file's. It
// returns the new address of each port.
func startCaddy(t *testing.T, text string, addresses func(string) string) map[string]string {
	dir := t.TempDir()
	file := filepath.Join(dir, "Caddyfile")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	env := append(os.Environ(), "HOME="+dir, "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir)
	for _, name := range []string{"DOMAIN", "APP", "GREETING"} {
		v, _ := environment(addresses)(name)
		env = append(env, name+"="+v)
	}
	adapt := exec.Command(*caddyBinary, "adapt", "--config", file)
	adapt.Env = env
	out, err := adapt.Output()
	if !assert.NoError(t, err, "%v", string(out)) {
		if e, ok := err.(*exec.ExitError); ok {
			t.Logf("%s", e.Stderr)
		}
		return nil
	}
	var config map[string]any
	require.NoError(t, json.Unmarshal(out, &config))
	ports := replacePorts(t, config)
	out, err = json.Marshal(config)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file+".json", out, 0o600))
	run := exec.Command(*caddyBinary, "run", "--config", file+".json")
	run.Env = env
	log, err := os.Create(filepath.Join(dir, "log"))
	require.NoError(t, err)
	run.Stdout, run.Stderr = log, log
	require.NoError(t, run.Start())
	t.Cleanup(func() {
		_ = run.Process.Kill()
		_ = run.Wait()
		log.Close()
	})
	for _, addr := range ports {
		proxytest.Eventually(t, "Caddy listens", func() bool {
			c, err := net.Dial("tcp", addr)
			if err == nil {
				c.Close()
			}
			return err == nil
		})
	}
	return ports
}

// replacePorts sets free ports and a local CA, and disables the admin API.
func replacePorts(t *testing.T, config map[string]any) map[string]string {
	apps := config["apps"].(map[string]any)
	app := apps["http"].(map[string]any)
	ports := map[string]string{}
	replaced := func(port string) string {
		if ports[port] == "" {
			ports[port] = proxytest.Free(t)
		}
		_, p, _ := strings.Cut(ports[port], ":")
		return p
	}
	number := func(key, normal string) {
		if v, ok := app[key].(float64); ok {
			b, _ := json.Marshal(v)
			normal = string(b)
		}
		app[key] = json.RawMessage(replaced(normal))
	}
	number("http_port", "80")
	number("https_port", "443")
	open := map[string]bool{}
	for _, s := range app["servers"].(map[string]any) {
		listen := s.(map[string]any)["listen"].([]any)
		for i := range listen {
			port := listen[i].(string)[strings.LastIndexByte(listen[i].(string), ':')+1:]
			listen[i] = "127.0.0.1:" + replaced(port)
			open[listen[i].(string)] = true
		}
		s.(map[string]any)["protocols"] = []string{"h1", "h2"}
	}
	config["admin"] = map[string]any{"disabled": true}
	apps["pki"] = map[string]any{"certificate_authorities": map[string]any{"local": map[string]any{"install_trust": false}}}
	policy := map[string]any{"issuers": []any{map[string]any{"module": "internal"}}}
	automation := map[string]any{"policies": []any{policy}}
	if old, ok := apps["tls"].(map[string]any); ok {
		if a, ok := old["automation"].(map[string]any); ok && a["on_demand"] != nil {
			automation["on_demand"] = a["on_demand"]
			policy["on_demand"] = true
		}
	}
	apps["tls"] = map[string]any{"automation": automation}
	// the listener for redirects
	if https := "127.0.0.1:" + string(app["https_port"].(json.RawMessage)); open[https] {
		open["127.0.0.1:"+string(app["http_port"].(json.RawMessage))] = true
	}
	maps.DeleteFunc(ports, func(_, addr string) bool { return !open[addr] })
	return ports
}

// askOver sends a question to Caddy.
func askOver(t *testing.T, ports map[string]string, k question) answer {
	u, err := url.Parse(k.URL)
	require.NoError(t, err)
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", ports[port])
		},
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ServerName: u.Hostname()}, DisableCompression: true, DisableKeepAlives: true,
	}
	defer transport.CloseIdleConnections()
	var res *http.Response
	proxytest.Eventually(t, "Caddy has a certificate", func() bool {
		var q *http.Request
		q, err = http.NewRequestWithContext(t.Context(), k.Method, k.URL, strings.NewReader(k.Body))
		require.NoError(t, err)
		maps.Copy(q.Header, k.Header)
		res, err = transport.RoundTrip(q)
		return err == nil || !strings.Contains(err.Error(), "tls: internal error")
	})
	if err != nil {
		if strings.Contains(err.Error(), "EOF") || strings.Contains(err.Error(), "INTERNAL_ERROR") {
			return answer{Body: "aborted"}
		}
		return answer{Body: err.Error()}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return answer{res.StatusCode, res.Header, string(body)}
}
