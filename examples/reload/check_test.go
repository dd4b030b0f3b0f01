package reload_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/examples/reload"
)

func loaded(t *testing.T, text string) (*reload.Checked, error) {
	t.Helper()
	return reload.LoadText(filepath.Join(t.TempDir(), "proxy.yaml"), []byte(text), "own")
}

// Values are checked together before a file is put in force.
func TestInvalidCombinationsOfSettingsAreRefused(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		name = filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
		return name
	}
	empty, users := file("empty", " \n"), file("users", "ann:$2a$04$r.H.IwusjCYoQM/2jE2t1ex2PJE9s8XUMzwU8yUGnPrQeuF57GLjS\nann:$2a$04$x\n")
	nothing := file("nothing", "")
	const up = "{targets: \"a:1\", "
	for text, want := range map[string]string{
		"routes: {}":                    "1:1: routes: there is no route: want one at least",
		"log: {}":                       "there is no route",
		"routes: {a.test: {}}":          "1:10: routes[a.test]: nothing serves the route: want targets",
		"routes: {a.test: {hedge: 1s}}": "routes[a.test]: no targets: want targets",
		"routes: {a.test: {redirect: b.test, targets: \"a:1\"}}":                                                       "the route has redirect and settings of an upstream of its own: want one of these",
		"routes: {a.test: {redirect: \"b/c\"}}":                                                                        "routes[a.test].redirect: ",
		"routes: {a.test: {targets: \"a:1\", allow: []}}":                                                              "routes[a.test].allow: the list is empty, which allows every address",
		"routes: {a.test: {targets: \"a:1\", guard: {allow: []}}}":                                                     "routes[a.test].guard.allow: the list is empty, which allows every address",
		"routes: {a.test: {upstream: b}}":                                                                              "upstream \"b\" is unknown: want a name in upstreams",
		"routes: {a.test: {handler: b}}":                                                                               "handler \"b\" is unknown: want one of config, own, status",
		"upstreams: {b: \"a:1\"}\nroutes: {a.test: \"a:1\"}":                                                           "1:13: upstreams[b]: no route uses it",
		"routes: {a.test: \"a:1\", A.test: \"a:2\"}":                                                                   "A.test",
		"routes: {\"*.*.test\": \"a:1\"}":                                                                              "routes[*.*.test]: ",
		"routes: {\"\": \"a:1\"}":                                                                                      "routes[]: ",
		"routes: {a.test/api: " + up + "strip_prefix: /b}}":                                                            "routes[a.test/api].strip_prefix: ",
		"routes: {\"a\\u0000b\\n\": \"a:1\"}":                                                                          "want a text without a byte of 0",
		"routes: {\"a b\\r\\n\": \"a:1\"}":                                                                             `routes["a b\r\n"]: `,
		"routes: {a.test: [\"a:1\", \"a:1\"]}":                                                                         "target \"a:1\" is there already",
		"routes: {a.test: \"ws://a\"}":                                                                                 "http://",
		"routes: {a.test: " + up + "hedge: 1s, retry: {attempts: 1}}}":                                                 "routes[a.test].hedge: ",
		"routes: {a.test: " + up + "weights: [1, 2]}}":                                                                 "weights has 2 values for 1 targets",
		"routes: {a.test: " + up + "max_in_flight: 1, queue: {wait: 1s}}}":                                             "routes[a.test].queue.wait: queue.wait requires queue.max",
		"routes: {a.test: " + up + "health: {statuses: [200]}}}":                                                       "routes[a.test].health.statuses: health.statuses requires health.path",
		"routes: {a.test: " + up + "slow_start: 1s}}":                                                                  "routes[a.test].slow_start: ",
		"routes: {a.test: " + up + "sticky: {key_file: " + empty + "}}}":                                               "routes[a.test].sticky.key_file: ",
		"routes: {a.test: " + up + "sticky: {key_file: " + nothing + "}}}":                                             "the file is empty: write the value into it",
		"routes: {a.test: " + up + "sticky: {key_file: none}}}":                                                        "create it, or correct the name",
		"routes: {a.test: " + up + "sticky: {key_file: " + dir + "}}}":                                                 "is no regular file: want one",
		"routes: {a.test: {targets: \"https://a\", tls: {cert_file: x}}}":                                              "cert_file and key_file belong together",
		"routes: {a.test: {targets: \"https://a\", tls: {ca_files: " + empty + "}}}":                                   "has no certificate: want a PEM file",
		"routes: {a.test: " + up + "pages: {502: {status: 200}}}}":                                                     "the status of the response stays: remove status",
		"routes: {a.test: " + up + "pages: {200: {}}}}":                                                                "routes[a.test].pages",
		"routes: {a.test: " + up + "request_header: {set: {Host: x}}}}":                                                "routes[a.test].request_header",
		"routes: {a.test: " + up + "request_header: {set_files: {X-Key: " + empty + "}}}}":                             "request_header.set_files[X-Key]: ",
		"routes: {a.test: " + up + "hsts: {preload: true}}}":                                                           "routes[a.test].hsts.preload: ",
		"routes: {a.test: " + up + "canary: {upstream: b, share: 2}}, b.test: {upstream: b}}\nupstreams: {b: \"a:1\"}": "share is 2: want a number above 0",
		"routes: {a.test: " + up + "maintenance: {status: 204}}}":                                                      "maintenance.status: status 204: want 200 to 599",
		"routes: {a.test: {discover: {dns: {target: \"a:1\"}}}}":                                                       "interval is 0s: want 1s or more",
		"routes: {a.test: {discover: {srv: {service: _a, proto: tcp, name: a, interval: 5s}}}}":                        "service is \"_a\": want a name without an underscore",
		"routes: {a.test: {discover: {}}}":                                                                             "want one of dns and srv",
		"routes: {a.test: " + up + "basic_auth: {}}}":                                                                  "users_file is missing",
		"routes: {a.test: " + up + "basic_auth: {users_file: " + users + "}}}":                                         "users, line 2: user \"ann\" is there already",
		"routes: {a.test: " + up + "guard: {}}}":                                                                       "the guard lets every request pass",
		"routes: {a.test: " + up + "forward_auth: {auth: b}}}":                                                         "forward_auth.auth: upstream \"b\" is unknown",
		"routes: {a.test: {passthrough: {addr: b}}}":                                                                   "routes[a.test].passthrough",
		"routes: {a.test: {page: {body: a, body_file: b}}}":                                                            "want one of body and body_file",
		"rate_limit: {burst: 3}\nroutes: {a.test: \"a:1\"}":                                                            "1:1: rate_limit: ",
		"response_header: {set: {Host: x}}\nroutes: {a.test: \"a:1\"}":                                                 "1:19: response_header.set: response_header.set: \"Host\" is not allowed",
		"hsts: {max_age: 1ms}\nroutes: {a.test: \"a:1\"}":                                                              "1:8: hsts.max_age: hsts.max_age is 1ms",
		"request_id: {respond: true}\nroutes: {a.test: \"a:1\"}":                                                       "request_id.respond requires request_id.name",
		"tls: {email: x}\nroutes: {a.test: \"a:1\"}":                                                                   "1:7: tls.email: ",
		"tls: {email: a@b.c, issuer: {ca: \"https://x/\"}}\nroutes: {a.test: \"a:1\"}":                                 "1:7: tls.email: ",
		"tls: {files: [{cert_file: x}]}\nroutes: {a.test: \"a:1\"}":                                                    "want cert_file and key_file",
		"tls: {files: [{cert_file: x, key_file: y}]}\nroutes: {a.test: \"a:1\"}":                                       "no such file",
		"tls: {hosts: {b.test: {}}}\nroutes: {a.test: \"a:1\"}":                                                        "1:15: tls.hosts[b.test]: no route has this host",
		"tls: {hosts: {a.test: {}, A.test: {}}}\nroutes: {a.test: \"a:1\"}":                                            "in another spelling",
		"tls: {hosts: {a.test: {no_certificate: true, own_certificate: true}}}\nroutes: {a.test: \"a:1\"}":             "no_certificate refuses handshakes",
		"tls: {hosts: {a.test: {client_auth: {}}}}\nroutes: {a.test: \"a:1\"}":                                         "ca_files are required if mode verifies",
		"tls: {host_policy: [a.test]}\nroutes: {a.test: \"a:1\"}":                                                      "no route has a wildcard",
		"tls: {host_policy: [\"*\"]}\nroutes: {\"*.test\": \"a:1\"}":                                                   "want a host such as a.example.com",
		"tls: {host_policy: [A.test]}\nroutes: {\"*.test\": \"a:1\"}":                                                  `"A.test": want the canonical spelling, a.test`,
		"routes: {a.test: " + up + "request_header: {add: {X-a: 1, x-A: 2}}}}":                                         "is there in another spelling too",
		"tls: {default_host: \"a b\"}\nroutes: {a.test: \"a:1\"}":                                                      "tls.default_host: ",
		"tls: {config: {cipher_suites: [TLS_AES_128_GCM_SHA256]}}\nroutes: {a.test: \"a:1\"}":                          "is unknown, or not for TLS 1.2",
		"listeners: []\nroutes: {a.test: \"a:1\"}":                                                                     "there is no listener",
		"listeners: [{}]\nroutes: {a.test: \"a:1\"}":                                                                   "want one of addr and socket",
		"listeners: [{addr: \":1\", role: redirects}]\nroutes: {a.test: \"a:1\"}":                                      "redirects lead to HTTPS, and no listener has the role tls",
		"listeners: [{addr: \":1\", role: internal}]\nroutes: {a.test: \"a:1\"}":                                       "handler and the role internal require each other",
		"listeners: [{addr: \":1\", h2c: true}]\nroutes: {a.test: \"a:1\"}":                                            "h2c requires the role plain",
		"listeners: [{addr: \":1\", mode: 0660}]\nroutes: {a.test: \"a:1\"}":                                           "mode is for unix sockets",
		"listeners: [{addr: \":1\"}, {addr: \":1\", role: plain}]\nroutes: {a.test: \"a:1\"}":                          "another listener has this address",
		"listeners: [{addr: localhost}]\nroutes: {a.test: \"a:1\"}":                                                    "the port is missing: want host:port",
		"listeners: [{addr: \":99999\"}]\nroutes: {a.test: \"a:1\"}":                                                   "want a number below 65536",
		"listeners: [{addr: unix:a}]\nroutes: {a.test: \"a:1\"}":                                                       "a unix socket needs an absolute path",
		"server: {proxy_protocol: {}}\nroutes: {a.test: \"a:1\"}":                                                      "server.proxy_protocol: from is missing",
		"not_found: {status: 304}\nroutes: {a.test: \"a:1\"}":                                                          "not_found.status: status 304",
	} {
		_, err := loaded(t, text)
		var faults reload.Faults
		if assert.ErrorAs(t, err, &faults, "%s", text) {
			assert.Contains(t, faults.Error(), want, "%s", text)
			assert.Len(t, faults, 1, "%s\n%s", text, faults.Lines())
			assert.NotContains(t, faults.Error(), "\n")
			assert.Positive(t, faults[0].Line)
		}
	}
}

// Without effect, tls would hide that the connections to targets are not
// encrypted.
func TestTLSForTargetsWithoutHTTPSIsRefused(t *testing.T) {
	for upstream, refused := range map[string]bool{
		"targets: \"a:1\", tls: {}": true,
		"targets: [\"http://a\", \"h2c://b:1\", \"unix:/c\"], tls: {min_version: 1.3}":                           true,
		"targets: \"a:1\", tls: {insecure_skip_verify: true}":                                                    true,
		"tls: {server_name: a}, discover: {dns: {target: \"a:1\", interval: 9s}}":                                true,
		"tls: {server_name: a}, discover: {srv: {service: a, proto: tcp, name: a, interval: 9s}}":                true,
		"targets: [\"http://a\", \"https://b\"], tls: {server_name: a}":                                          false,
		"tls: {server_name: a}, discover: {dns: {target: \"https://a\", interval: 9s}}":                          false,
		"tls: {server_name: a}, discover: {srv: {scheme: https, service: a, proto: tcp, name: a, interval: 9s}}": false,
	} {
		for _, text := range []string{"routes: {a.test: {" + upstream + "}}", "routes: {a.test: {upstream: b}}\nupstreams: {b: {" + upstream + "}}"} {
			_, err := loaded(t, text)
			if !refused {
				assert.NoError(t, err, "%s", text)
				continue
			}
			assert.ErrorContains(t, err, ".tls: tls is for https targets, and there is none: write https:// in front of a target, or remove tls", "%s", text)
			assert.Len(t, err, 1, "%s", text)
		}
	}
	_, err := loaded(t, "routes: {a.test: {targets: nope, tls: {server_name: a}}}")
	assert.Len(t, err, 1, "a target that cannot be read is the only fault: %v", err)
}

func TestCompareNamesWhatChangesAndWhatNeedsARestart(t *testing.T) {
	old, err := loaded(t, `
server: {idle_timeout: 1m}
upstreams: {blog: [localhost:1, localhost:2]}
routes: {blog.test: {upstream: blog}, old.test: localhost:3, www.test: {redirect: blog.test}, page.test: {page: {body: x}}, auth.test: localhost:5}
`)
	require.NoError(t, err)
	next, err := loaded(t, `
server: {idle_timeout: 2m}
request_id: {name: X-Id}
upstreams: {blog: {targets: [localhost:1, localhost:4]}}
routes:
  page.test: {page: {body: y}}
  blog.test: {upstream: blog}
  new.test: localhost:3
  www.test: {redirect: blog.test}
  auth.test: {targets: localhost:5, guard: {allow: 10.0.0.0/8}}
`)
	require.NoError(t, err)
	d, err := reload.Compare(old, next)
	require.NoError(t, err)
	assert.Equal(t, []string{"new.test"}, d.Routes.Added)
	assert.Equal(t, []string{"old.test"}, d.Routes.Removed)
	assert.Equal(t, []string{"page.test"}, d.Routes.Swapped)
	assert.Equal(t, []string{"auth.test"}, d.Routes.Rewrapped)
	assert.Equal(t, []string{`request_id.name: (none) -> X-Id`}, d.Restart)
	assert.Equal(t, []string{
		"request_id.name: (none) -> X-Id", "routes[auth.test].guard.allow: (none) -> [10.0.0.0/8]", "routes[new.test].targets: (none) -> [localhost:3]",
		"routes[old.test].targets: [localhost:3] -> (none)", "routes[page.test].page.body: x -> y",
		"server.idle_timeout: 1m0s -> 2m0s", "upstreams[blog].targets: [localhost:1, localhost:2] -> [localhost:1, localhost:4]",
	}, d.Settings)
	assert.Contains(t, d.String(), "request_id.name: (none) -> X-Id (needs a restart: a running proxy refuses the file)\n")
	same, err := reload.Compare(old, old)
	require.NoError(t, err)
	assert.Equal(t, "no changes", same.String())
}

func TestAChangeOfAFilesContentsIsAChange(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	load := func(secret string) *reload.Checked {
		require.NoError(t, os.WriteFile(key, []byte(secret), 0o600))
		c, err := reload.LoadText(filepath.Join(dir, "proxy.yaml"), []byte("routes: {a.test: {targets: \"a:1\", sticky: {key_file: key}}}"))
		require.NoError(t, err)
		return c
	}
	old := load(strings.Repeat("a", 16))
	d, err := reload.Compare(old, load(strings.Repeat("b", 16)))
	require.NoError(t, err)
	assert.Equal(t, []string{"a.test"}, d.Routes.Swapped)
	assert.Equal(t, []string{"the contents of " + key}, d.Settings)
}

func TestEnvironmentVariablesAreNotExpanded(t *testing.T) {
	t.Setenv("TARGET", "localhost:1")
	_, err := loaded(t, "routes: {a.test: $TARGET}")
	assert.ErrorContains(t, err, "$TARGET")
	c, err := loaded(t, "routes: {a.test: {page: {body: \"${TARGET} ~\"}}}")
	require.NoError(t, err)
	assert.Equal(t, "${TARGET} ~", c.Config().Routes["a.test"].Page.Body)
}

// Checks a file before it replaces another one.
func Example() {
	old, err := reload.LoadText("proxy.yaml", []byte("routes: {app.example.com: localhost:4000}"))
	if err != nil {
		fmt.Println(err)
		return
	}
	next, err := reload.LoadText("proxy.yaml", []byte(`
routes:
  app.example.com: [localhost:4000, localhost:4001] # a second target
  blog.example.com: {targets: localhost:4006, dial_timeout: 2s}
`))
	if err != nil {
		fmt.Println(err)
		return
	}
	d, err := reload.Compare(old, next)
	fmt.Println(d, err)

	_, err = reload.LoadText("proxy.yaml", []byte("routes:\n  app.example.com: {targets: localhost, dial_timeout: 2}"))
	fmt.Println(err.(reload.Faults).Lines())
	// Output:
	// added: blog.example.com
	// certificates: blog.example.com
	// routes[app.example.com].targets: [localhost:4000] -> [localhost:4000, localhost:4001]
	// routes[blog.example.com].dial_timeout: (none) -> 2s
	// routes[blog.example.com].targets: (none) -> [localhost:4006] <nil>
	// proxy.yaml:2:21: routes[app.example.com].targets: target "localhost": the port is missing: write localhost:80 or another port
	// proxy.yaml:2:55: routes[app.example.com].dial_timeout: "2": want a duration with a unit, such as 500ms, 30s, 5m or 90d
}

func TestTheErrorForAnUnknownUpstreamNamesOnlySomeOfTheOthers(t *testing.T) {
	var text strings.Builder
	text.WriteString("routes: {a.localhost: {upstream: x}}\nupstreams:\n")
	for i := range 1000 {
		fmt.Fprintf(&text, "  u%03d: localhost:1\n", i)
	}
	_, err := reload.LoadText("f", []byte(text.String()))
	assert.ErrorContains(t, err, `upstream "x" is unknown: want a name in upstreams (u000, u001, `)
	assert.ErrorContains(t, err, ", u019, and 980 more)")
}
