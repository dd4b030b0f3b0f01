package main

import "path/filepath"

// caddyConf adds the forwarding headers that the other peers set to Caddy's
// own. It does not use Caddy's certificate storage or admin port.
const caddyConf = `
{
	admin off
	auto_https off
	persist_config off
	storage file_system {{.Dir}}
	log {
		output discard
	}
}
{{if .Cert}}https{{else}}http{{end}}://:{{.Port}} {
	bind 127.0.0.1
	{{if .Cert}}tls {{.Cert}} {{.Key}}{{end}}
	reverse_proxy {{.Backend}} {
		header_up X-Real-IP {remote_host}
		transport http {
			{{if .H2C}}versions h2c{{end}}
			compression off
			keepalive_idle_conns_per_host 2000
		}
	}
}
`

func caddy(s *site) ([]string, error) {
	conf := filepath.Join(s.dir, "Caddyfile")
	v := struct {
		Dir, Port, Cert, Key, Backend string
		H2C                           bool
	}{Dir: s.dir, Port: portOf(s.listen), Backend: s.backend, H2C: s.h2c}
	if s.secure {
		v.Cert, v.Key = s.keys.cert, s.keys.key
	}
	return []string{"caddy", "run", "--adapter", "caddyfile", "--config", conf}, writeConfig(conf, caddyConf, v)
}
