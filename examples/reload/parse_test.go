package reload_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/examples/reload"
)

func TestKeysAreTheNamesOfFields(t *testing.T) {
	for name, want := range map[string]string{
		"ReadHeaderTimeout": "read_header_timeout", "MaxConnsPerClient": "max_conns_per_client", "CAFiles": "ca_files",
		"TLS": "tls", "H2C": "h2c", "GRPC": "grpc", "URI": "uri", "HSTS": "hsts", "DisableARI": "disable_ari", "CA": "ca",
		"HostPolicyTTL": "host_policy_ttl", "RequestID": "request_id", "MACKeyFile": "mac_key_file", "KeyID": "key_id",
		"DNS": "dns", "TestCA": "test_ca", "Targets": "targets", "SRV": "srv", "IncludeSubDomains": "include_sub_domains",
	} {
		assert.Equal(t, want, reload.Snake(name))
	}
}

func TestEachFaultHasItsPlaceAndItsRule(t *testing.T) {
	deep := strings.Repeat("[", 9000)
	for text, want := range map[string]string{
		"":                                  `f:1:1: the file is empty: want routes`,
		"# only a comment":                  `f:1:1: the file is empty: want routes`,
		"~":                                 `f:1:1: the value is missing`,
		"- a":                               `f:1:1: a list: want keys with values`,
		"nope":                              `f:1:1: "nope": want keys with values`,
		"log: {level: a: b":                 `f:1:1: not YAML`,
		"log:\n\tlevel: info":               `f:2:2: not YAML`,
		"log: {}\n---\nlog: {}":             `more than one document`,
		"log: {}\nlog: {}":                  `f:2:1: key "log" is in line 1 already: keep one of them`,
		"log: {Level: debug}":               `f:1:7: log: key "Level" is unknown: want level`,
		"sever: {}":                         `f:1:1: key "sever" is unknown: want one of`,
		"log: {level: loud}":                `f:1:14: log.level: "loud": want one of info, debug, warn, error`,
		"log: [a]":                          `f:1:6: log: a list: want keys with values`,
		"log: {output: [a]}":                `f:1:15: log.output: a list: want one value`,
		"log: {output: }":                   `f:1:15: log.output: the value is missing`,
		"server: {idle_timeout: 5}":         `f:1:24: server.idle_timeout: "5": want a duration with a unit`,
		"server: {idle_timeout: -5s}":       `negative: want a duration with a unit, such as 500ms, 30s, 5m or 90d, or off`,
		"server: {idle_timeout: 0}":         `0 would mean the default: leave the key out for that, or write a duration`,
		"server: {idle_timeout: 1ns}":       `want a microsecond or more`,
		"server: {idle_timeout: 99999999d}": `want a duration`,
		"server: {max_header_bytes: 16}":    `want a size with a unit`,
		"server: {max_header_bytes: off}":   `want a size with a unit`,
		"server: {max_header_bytes: 99999999999GiB}":         `want a size with a unit`,
		"server: {max_conns: -1}":                            `negative: want a whole number`,
		"server: {max_conns: 1e3}":                           `want a whole number`,
		"server: {max_conns: 99999999999999999999}":          `want a whole number`,
		"server: {max_conns: true}":                          `want a whole number`,
		"rate_limit: {rate: .nan}":                           `want a number`,
		"rate_limit: {rate: -1}":                             `negative: want a number`,
		"request_id: {respond: yes}":                         `f:1:23: request_id.respond: "yes": want true or false`,
		"trusted_proxies: [10.0.0.1/8]":                      `the address has bits behind its prefix: want 10.0.0.0/8`,
		"trusted_proxies: [localhost]":                       `trusted_proxies[0]: "localhost": want an address or a range`,
		"listeners: [{addr: \":1\", mode: 999}]":             `want a file mode in octal`,
		"log: &x {}\ntls: *x":                                `anchors (&) and aliases (*) are not read`,
		"log: &x {}":                                         `anchors (&) and aliases (*) are not read`,
		"routes: {*: localhost:1}":                           `not YAML`,
		"log: !!binary aGk=":                                 `tag "!!binary": tags are not read`,
		"log: {<<: {level: info}}":                           `key "<<" is unknown`,
		"? [a]\n: b":                                         `a list as a key: want a plain text`,
		"upstreams: {a: {pages: {x: {}}}}":                   `key "x": want a whole number`,
		"upstreams: {a: {pages: {500: {}, 0500: {}}}}":       `key "0500" stands for one that is there already`,
		"upstreams: {a: {hedge: 1s, Hedge: 2s, hedges: 3s}}": `key "Hedge" is unknown: want hedge`,
		"log: {output: \"a\\0b\"}":                           `want a text without a byte of 0`,
		"log: {output: \"\xff\"}":                            `not YAML`,
		"log: " + deep:                                       `not YAML`,
		"log: {level: " + strings.Repeat("x", 1000) + "}":    strings.Repeat("x", 100) + `"...: want one of`,
	} {
		_, err := reload.Parse("f", []byte(text))
		var faults reload.Faults
		if assert.ErrorAs(t, err, &faults, "%.100q", text) {
			assert.Contains(t, faults.Error(), want, "%.100q", text)
			assert.Less(t, len(faults.Error()), 3000)
		}
	}
}

// The error for a newcomer's first guess shows the right form.
func TestAFirstGuessGetsTheRuleWithAnExample(t *testing.T) {
	for text, want := range map[string]string{
		"tls: off":                                     `f:1:6: tls: "off": want keys with values, such as {email: ops@example.com}; without TLS, give the listeners another role: listeners: [{addr: ":80", role: plain}]`,
		"listeners: \":8080\"":                         `f:1:12: listeners: ":8080": want a list, such as listeners: [{addr: ":8080", role: plain}]`,
		"listeners: {addr: x}":                         `f:1:12: listeners: keys with values: want a list, such as listeners: [{addr: ":8080", role: plain}]`,
		"listeners: [\":8080\"]":                       `f:1:13: listeners[0]: ":8080": want keys with values, such as listeners: [{addr: ":8080", role: plain}]`,
		"email: a@b.c":                                 `f:1:1: key "email" is unknown: it stands in tls: write tls: {email: ...}`,
		"idle_timeout: 1m":                             `f:1:1: key "idle_timeout" is unknown: it stands in server: write server: {idle_timeout: ...}`,
		"routes: [a.test]":                             `f:1:9: routes: a list: want keys with values, such as {app.example.com: localhost:4000}`,
		"routes: {a: {guard: {rate: 10}}}":             `f:1:22: routes[a].guard: key "rate" is unknown: it stands in rate_limit: write rate_limit: {rate: ...}`,
		"routes: {a: {rate_limit: 10}}":                `f:1:26: routes[a].rate_limit: "10": want keys with values, such as {rate: 10, burst: 20}`,
		"routes: {a: {targets: x, tls: off}}":          `routes[a].tls: "off": want keys with values, such as {ca_files: ca.pem}; a target without TLS is written http://host:port`,
		"routes: {a: {basic_auth: {users: {ann: x}}}}": `f:1:27: routes[a].basic_auth: key "users" is unknown: want one of realm, user_header, users_file, such as {users_file: users}: a file with lines of name:hash, as htpasswd -nB writes them`,
		"routes: {a: {basic_auth: {ann: secret}}}":     `such as {users_file: users}: a file with lines of name:hash`,
		"routes: {a: {basic_auth: users}}":             `routes[a].basic_auth: "users": want keys with values, such as {users_file: users}`,
		"routes: {a: {health: /healthz}}":              `routes[a].health: "/healthz": want keys with values, such as {path: /healthz, interval: 10s}`,
		"log: {access: true}":                          `log.access: "true": want keys with values: {} logs each request`,
		"routes: {a: {guard: on}}":                     `want keys with values, such as {allow: 10.0.0.0/8, rate_limit: {rate: 10}}`,
	} {
		_, err := reload.Parse("f", []byte(text))
		assert.ErrorContains(t, err, want, text)
		assert.Len(t, err, 1, text)
	}
}

func TestAllFaultsComeAtOnceAndALargeNumberIsCut(t *testing.T) {
	_, err := reload.Parse("f", []byte("log: {level: loud, format: xml}\nserver: {max_conns: x}\n"))
	assert.Equal(t, "f:1:14: log.level: \"loud\": want one of info, debug, warn, error; f:1:28: log.format: \"xml\": want one of text, json; "+
		"f:2:21: server.max_conns: \"x\": want a whole number, such as 100, below 2147483648", err.Error())
	_, err = reload.Parse("f", []byte(strings.Repeat("- x\n", 10)+"a: b"))
	assert.Error(t, err)
	var many strings.Builder
	for range 1000 {
		many.WriteString("- {addr: x, Role: y}\n")
	}
	_, err = reload.Parse("f", []byte("listeners:\n"+many.String()))
	assert.Len(t, err, 1000)
	assert.True(t, strings.HasSuffix(err.Error(), "; and 950 more"))
}

func TestValuesAreReadAsTheirFieldSays(t *testing.T) {
	c, err := reload.Parse("f", []byte(`
log: {output: no, level: info}         # no is a name here, not false
server: {idle_timeout: 2m, drain_timeout: off, max_header_bytes: 16 KiB, max_handshakes: off, read_header_timeout: 1d}
trusted_proxies: 10.0.0.1
request_id: {name: 1e3}
routes:
  a.example.com: localhost:1
  b.example.com: [localhost:1, "localhost:2"]
  "*.example.com": {targets: localhost:1, hedge: 0, upgrades: [], stream_grace: 0s, retry: {budget: off}}
`))
	require.NoError(t, err)
	assert.Equal(t, reload.Log{Output: "no"}, c.Log)
	assert.Equal(t, reload.Server{IdleTimeout: 2 * time.Minute, DrainTimeout: -1, MaxHeaderBytes: 16 << 10, MaxHandshakes: -1, ReadHeaderTimeout: 24 * time.Hour}, c.Server)
	assert.Equal(t, "10.0.0.1/32", c.TrustedProxies[0].String())
	assert.Equal(t, "1e3", c.RequestID.Name)
	assert.Equal(t, []string{"localhost:1"}, c.Routes["a.example.com"].Inline.Targets)
	assert.Equal(t, []string{"localhost:1", "localhost:2"}, c.Routes["b.example.com"].Inline.Targets)
	assert.Equal(t, reload.Upstream{Targets: []string{"localhost:1"}, Upgrades: []string{}, Retry: reload.Retry{Budget: -1}}, c.Routes["*.example.com"].Inline)
}

func TestJSONIsAcceptedToo(t *testing.T) {
	c, err := reload.Parse("f", []byte(`{"routes": {"a.example.com": {"targets": ["localhost:1"], "target_host": true}}}`))
	require.NoError(t, err)
	assert.True(t, c.Routes["a.example.com"].Inline.TargetHost)
}

// FuzzParse checks that nothing panics, that all faults have a place in the
// text, and that a configuration prints to text that parses to the same.
func FuzzParse(f *testing.F) {
	c := new(reload.Config)
	complete(reflect.ValueOf(c).Elem(), "file", "")
	f.Add(c.String())
	f.Add("routes: {a.example.com: localhost:1}\nlog: {level: debug}\n")
	f.Add("routes:\n  \"*\": [a, \"b\\u2028\"]\n  ? x\n  : {upgrades: [], retry: {budget: off}, hsts: {max_age: 90d}}\n")
	f.Add("a: &x [*x]\n---\n...\n")
	f.Add("server: {idle_timeout: off, max_header_bytes: 1GiB}\nupstreams: {~: {}, null: {pages: {500: {body: |\n  x\n }}}}")
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 1<<16 {
			return
		}
		c, err := reload.Parse("f", []byte(text))
		if err != nil {
			var faults reload.Faults
			require.ErrorAs(t, err, &faults)
			require.NotEmpty(t, faults)
			lines := strings.Count(text, "\n") + strings.Count(text, "\r") + strings.Count(text, "\u2028") + strings.Count(text, "\u2029") + strings.Count(text, "\u0085") + 1
			for _, f := range faults {
				if f.Line < 1 || f.Line > lines+1 || f.Column < 1 || f.Rule == "" || strings.ContainsAny(f.Rule, "\n\x00\x1b") {
					t.Fatalf("%#v in %d lines", f, lines)
				}
			}
			return
		}
		again, err := reload.Parse("f", []byte(c.String()))
		require.NoError(t, err, "%q printed as\n%s", text, c)
		require.Equal(t, c, again)
		require.Equal(t, c.String(), again.String())
		require.Zero(t, reload.Differ(c, again))
		_, _ = reload.LoadText("f", []byte(text)) // faults are allowed, panics are not
	})
}
