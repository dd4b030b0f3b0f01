package main

import (
	"os"
	"path/filepath"
)

// nginxCommon is the common part of proxy and backend: no logs, no daemon,
// persistent connections, and scratch files in the instance's directory.
const nginxCommon = `
daemon off;
{{if .Root}}user root;{{end}}
pid {{.Dir}}/nginx.pid;
error_log stderr crit;
worker_processes {{.Workers}};
worker_rlimit_nofile 20000;
events { worker_connections 9000; }
http {
	access_log off;
	server_tokens off;
	keepalive_requests 1000000000;
	keepalive_timeout 1h;
	client_max_body_size 0;
	client_body_temp_path {{.Dir}}/body;
	proxy_temp_path {{.Dir}}/proxy;
	fastcgi_temp_path {{.Dir}}/fastcgi;
	uwsgi_temp_path {{.Dir}}/uwsgi;
	scgi_temp_path {{.Dir}}/scgi;
`

// nginxProxyConf is the reverse proxy of the nginx documentation, with a pool
// of upstream connections. Buffers have their default sizes, but no body goes
// to a temporary file. No body is sent in two writes either: Nagle's algorithm
// would delay the second one. The TLS suite is the one that Go prefers, so that
// all peers use the same encryption.
const nginxProxyConf = nginxCommon + `
	map $http_upgrade $connection_upgrade { default upgrade; '' ''; }
	upstream target {
		server {{.Backend}};
		keepalive 2000;
		keepalive_requests 1000000000;
		keepalive_timeout 1h;
	}
	server {
		listen {{.Listen}} backlog=4096{{if .Cert}} ssl http2{{end}};
		{{if .Cert}}
		ssl_certificate {{.Cert}};
		ssl_certificate_key {{.Key}};
		ssl_protocols TLSv1.2 TLSv1.3;
		ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
		ssl_session_cache shared:tls:10m;
		{{end}}
		proxy_http_version 1.1;
		proxy_max_temp_file_size 0;
		client_body_buffer_size 64k;
		proxy_set_header Host $http_host;
		proxy_set_header X-Forwarded-For $remote_addr;
		proxy_set_header X-Forwarded-Proto $scheme;
		proxy_set_header X-Forwarded-Host $http_host;
		proxy_set_header X-Real-IP $remote_addr;
		proxy_set_header Via "1.1 nginx";
		proxy_set_header Connection $connection_upgrade;
		proxy_set_header Upgrade $http_upgrade;
		grpc_set_header Host $http_host;
		grpc_set_header X-Forwarded-For $remote_addr;
		grpc_set_header X-Forwarded-Proto $scheme;
		grpc_set_header X-Forwarded-Host $http_host;
		grpc_set_header X-Real-IP $remote_addr;
		grpc_set_header Via "1.1 nginx";
		location / { {{if .H2C}}grpc_pass grpc{{else}}proxy_pass http{{end}}://target; }
	}
}
`

// nginxBackendConf serves the small body from memory, the large ones from
// files, and /echo with the forwarding headers that it received.
const nginxBackendConf = nginxCommon + `
	sendfile on;
	open_file_cache max=100 inactive=1h;
	open_file_cache_valid 1h;
	default_type text/plain;
	server {
		listen {{.Listen}} backlog=4096;
		root {{.Dir}}/files;
		location = /small { return 200 "` + smallBody + `"; }
		location = /echo { return 200 "for=$http_x_forwarded_for proto=$http_x_forwarded_proto host=$http_x_forwarded_host real=$http_x_real_ip via=$http_via\n"; }
	}
}
`

// nginxSettings are the variables of the templates above.
type nginxSettings struct {
	Root                 bool
	Dir, Listen, Backend string
	Cert, Key            string
	Workers              int
	H2C                  bool
}

func nginxProxy(s *site) ([]string, error) {
	v := nginxSettings{Root: os.Geteuid() == 0, Dir: s.dir, Listen: s.listen, Backend: s.backend, Workers: s.cores, H2C: s.h2c}
	if s.secure {
		v.Cert, v.Key = s.keys.cert, s.keys.key
	}
	return nginxCommand(s.dir, nginxProxyConf, v)
}

func nginxCommand(dir, text string, v nginxSettings) ([]string, error) {
	conf := filepath.Join(dir, "nginx.conf")
	return []string{"nginx", "-p", dir, "-e", "stderr", "-c", conf}, writeConfig(conf, text, v)
}
