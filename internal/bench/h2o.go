package main

import (
	"os"
	"path/filepath"
)

// h2oConf sets the forwarding headers that h2o can set: X-Forwarded-For,
// X-Forwarded-Proto and Via.
const h2oConf = `
{{if .Root}}user: root{{end}}
num-threads: {{.Cores}}
max-connections: 9000
listen:
  host: {{.Host}}
  port: {{.Port}}
{{if .Cert}}
  ssl:
    certificate-file: {{.Cert}}
    key-file: {{.Key}}
{{end}}
http1-request-timeout: 3600
http2-idle-timeout: 3600
hosts:
  default:
    paths:
      /:
        proxy.reverse.url: http://{{.Backend}}/
        proxy.preserve-host: ON
        proxy.timeout.keepalive: 3600000
`

// h2oTLS is an OpenSSL configuration, since h2o has no setting for the TLS 1.3
// cipher suites.
const h2oTLS = `
openssl_conf = all
[all]
ssl_conf = ssl
[ssl]
system_default = suites
[suites]
Ciphersuites = TLS_AES_128_GCM_SHA256
`

func h2o(s *site) ([]string, error) {
	conf, suites := filepath.Join(s.dir, "h2o.yaml"), filepath.Join(s.dir, "openssl.cnf")
	if err := writeConfig(suites, h2oTLS, nil); err != nil {
		return nil, err
	}
	v := struct {
		Root                bool
		Cores               int
		Host, Port, Backend string
		Cert, Key           string
	}{Root: os.Geteuid() == 0, Cores: s.cores, Host: hostOf(s.listen), Port: portOf(s.listen), Backend: s.backend}
	if s.secure {
		v.Cert, v.Key = s.keys.cert, s.keys.key
	}
	return []string{"env", "OPENSSL_CONF=" + suites, "h2o", "-c", conf}, writeConfig(conf, h2oConf, v)
}
