package main

import "path/filepath"

// haproxyConf sets the same forwarding headers and TLS suite as nginxProxyConf.
const haproxyConf = `
global
	nbthread {{.Cores}}
	maxconn 9000
	ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
defaults
	mode http
	timeout connect 5s
	timeout client 1h
	timeout server 1h
	timeout tunnel 1h
frontend front
	bind {{.Listen}} backlog 4096{{if .Both}} ssl crt {{.Both}} alpn h2,http/1.1{{end}}
	http-request set-header X-Forwarded-For %[src]
	http-request set-header X-Forwarded-Proto {{if .Both}}https{{else}}http{{end}}
	http-request set-header X-Forwarded-Host %[req.hdr(host)]
	http-request set-header X-Real-IP %[src]
	http-request set-header Via "1.1 haproxy"
	default_backend back
backend back
	server target {{.Backend}} pool-max-conn 2000{{if .H2C}} proto h2{{end}}
`

func haproxy(s *site) ([]string, error) {
	conf := filepath.Join(s.dir, "haproxy.cfg")
	both := ""
	if s.secure {
		both = s.keys.both
	}
	return []string{"haproxy", "-db", "-f", conf}, writeConfig(conf, haproxyConf, struct {
		Cores                 int
		Listen, Both, Backend string
		H2C                   bool
	}{s.cores, s.listen, both, s.backend, s.h2c})
}
