package main

import "path/filepath"

// nghttpxConf sets the forwarding headers that nghttpx can set without a
// script: X-Forwarded-For, X-Forwarded-Proto and Via.
const nghttpxConf = `
frontend={{.Host}},{{.Port}}{{if not .Cert}};no-tls{{end}}
backend={{.BackendHost}},{{.BackendPort}};;proto={{.Proto}}
{{if .Cert}}
certificate-file={{.Cert}}
private-key-file={{.Key}}
tls13-ciphers=TLS_AES_128_GCM_SHA256
{{end}}
single-process=yes
workers={{.Cores}}
add-x-forwarded-for=yes
strip-incoming-x-forwarded-for=yes
frontend-keep-alive-timeout=1h
frontend-http2-read-timeout=1h
backend-keep-alive-timeout=1h
backend-connections-per-host=2000
accesslog-file=/dev/null
errorlog-file=/dev/stderr
no-ocsp=yes
no-server-push=yes
`

func nghttpx(s *site) ([]string, error) {
	conf := filepath.Join(s.dir, "nghttpx.conf")
	v := struct {
		Host, Port, BackendHost, BackendPort, Proto string
		Cert, Key                                   string
		Cores                                       int
	}{Cores: s.cores, Proto: "http/1.1"}
	v.Host, v.Port = hostOf(s.listen), portOf(s.listen)
	v.BackendHost, v.BackendPort = hostOf(s.backend), portOf(s.backend)
	if s.secure {
		v.Cert, v.Key = s.keys.cert, s.keys.key
	}
	if s.h2c {
		v.Proto = "h2"
	}
	return []string{"nghttpx", "--conf=" + conf}, writeConfig(conf, nghttpxConf, v)
}
