package caddyfile_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/examples/caddyfile"
)

// refusedBodies are bodies of a site with one word too many, or with a word
// that would have no effect. refusedGlobals are such global options, and
// refusedFiles are whole files.
func refusedBodies() []string {
	return []string{
		"root * /srv more", "root /srv {\n}", "respond a 200 b", "respond \"/a\"", "respond `@a` x", "error \"/a\" 404 x y", "respond a {\n\tmore\n}", "redir / /b 301 more", "redir /a /b {\n\tx\n}",
		"rewrite * /a /b", "uri strip_prefix /a /b", "uri replace a b 1 2", "uri strip_prefix /a {\n}", "try_files @m {path}", "try_files =404 {path}",
		"try_files {path} {\n\tpolicy smallest_size\n}", "file_server more", "file_server {\n\tindex a {\n\t}\n}", "file_server {\n\tstatus 200\n}",
		"abort now", "abort {\n}", "error a 404 b", "handle /a /b {\n}", "handle", "handle_path /a* b {\n}", "handle_path {\n}", "route x {\n}",
		"header X-A b c d", "header X-A b {\n\tX-C d\n}", "header {\n\tX-A b {\n\t}\n}", "header -X-A value", "header X-*-Y a", "header", "header Connection close",
		"request_header X-A", "request_header X-A b {\n}", "request_header Host a", "request_header -Host", "request_header -*", "request_header -host", "request_header -*ost", "request_header Host a b",
		"reverse_proxy a:1 {\n\theader_up -Host\n\theader_up Host b\n}", "reverse_proxy a:1 {\n\theader_up -*\n\theader_up Host b\n}",
		"reverse_proxy a:1 {\n\theader_up -Host b\n}", "reverse_proxy a:1 {\n\theader_up Host a b\n}", "reverse_proxy a:1 {\n\theader_up +Host\n}",
		"encode gzip {\n\tzstd 3\n}", "encode zstd", "encode {\n\tminimum_length x\n}",
		"basic_auth", "basic_auth argon2id {\n\ta $argon2id$v=19\n}", "basic_auth {\n\ta $2a$04$x y\n}", "request_body {\n}", "request_body 10MB", "request_body {\n\tmax_size 10XB\n}",
		"forward_auth localhost:1", "forward_auth localhost:1 {\n\turi /a\n\tcopy_headers\n}", "forward_auth localhost:1 {\n\turi /a\n\tcopy_headers *\n}",
		"forward_auth localhost:1 {\n\turi /a\n\tcopy_headers A>B\n}", "forward_auth localhost:1 {\n\turi /a b\n}",
		"reverse_proxy", "reverse_proxy {\n\tto\n}", "reverse_proxy a {\n\tto b {\n\t}\n}", "reverse_proxy a:1 {\n\tlb_policy first\n\tlb_policy random\n}",
		"reverse_proxy a:1 {\n\tlb_policy header X {\n\t\tfallback first\n\t}\n}", "reverse_proxy a:1 {\n\tlb_policy first 2\n}", "reverse_proxy a:1 {\n\thealth_uri /\n\thealth_status\n}",
		"reverse_proxy a:1 {\n\thealth_uri /\n\thealth_headers x {\n\t}\n}", "reverse_proxy a:1 {\n\tunhealthy_latency 1s\n}", "reverse_proxy a:1 {\n\thealth_timeout 1s\n}",
		"reverse_proxy a:1 {\n\tfail_duration 1h\n}", "reverse_proxy a:1 {\n\ttransport fastcgi\n}", "reverse_proxy h2c://a:1 {\n\ttransport http {\n\t\ttls\n\t}\n}",
		"reverse_proxy unix//a {\n\ttransport http {\n\t\ttls\n\t}\n}", "reverse_proxy unix//a {\n\ttransport http {\n\t\tversions h2c\n\t}\n}",
		"reverse_proxy https://a {\n\ttransport http {\n\t\tversions h2c\n\t}\n}", "reverse_proxy http://a:1 {\n\ttransport http {\n\t\ttls\n\t}\n}",
		"reverse_proxy a:1 {\n\ttransport http {\n\t\tversions 3\n\t}\n}",
		"reverse_proxy a:1 {\n\ttransport http {\n\t\ttls\n\t\ttls\n\t}\n}", "reverse_proxy a:1 {\n\ttransport http {\n\t\ttls_server_name\n\t}\n}",
		"reverse_proxy a:1 {\n\tdynamic srv x\n}", "reverse_proxy a:99999", "reverse_proxy a:b", "reverse_proxy {\n\tdynamic a x 80 {\n\t\tresolvers 1.1.1.1\n\t}\n}",
		"reverse_proxy a:1 {\n\tflush_interval x\n}", "reverse_proxy a:1 {\n\theader_up X-A {args[0]}\n}", "reverse_proxy a:1 {\n\ttransport http more {\n\t}\n}",
		"bind", "bind 127.0.0.1 {\n}", "bind unix//x", "bind :80", "bind 127.0.0.1:80", "bind [::1]:80", "tls internal more {\n}", "tls", "tls off", "tls {\n\tprotocols tls1.3\n}", "tls {\n\tclient_auth x {\n\t}\n}", "tls {\n\tclient_auth {\n\t}\n}",
		"tls {\n\tclient_auth {\n\t\tmode require_and_verify\n\t}\n}", "tls {\n\tclient_auth {\n\t\tmode verify_if_given\n\t}\n}",
		"tls {\n\tclient_auth {\n\t\ttrust_pool file {\n\t\t\tpem a\n\t\t}\n\t}\n}",
		"tls {\n\tca http://a\n}", "tls {\n\tissuer zerossl\n}", "log name", "log {\n\tlevel INFO {\n\t}\n}", "log {\n\tlevel LOUD\n}", "log {\n\toutput file\n}", "log {\n\toutput file a {\n\t\tmode 600\n\t}\n}",
		"log {\n\tformat json {\n\t\ttime_format x\n\t}\n}", "@a path /x\n@a path /y", "@a {\n}\nrespond @b x", "@a nothing", "@a", "@a path", "@a remote_ip 1.2.3", "@a host b\u00fc.example", "@a host a.example:80", "@a host http://a.example", "@a header X",
		"@a query x", "@a path_regexp (", "@a protocol ftp", "@a path /x {\n\ty\n}", "respond {nothing.known}", "respond {>Old}", "handle {\n\ttls internal\n}",
		"handle_errors", "handle_errors 99 {\n}", "handle_errors {\n}\nhandle_errors {\n}", "respond {err.status_code}", "handle {\n\thandle_errors {\n\t}\n}",
		"handle_errors {\n\trespond {err.message}\n}", "handle_errors {\n}\nbasic_auth {\n\ta $2a$04$gjjBA5lQVav6DCVGoJKfTexcZM5YY685ArE7fkYCBHoC9XQrJOs.y\n}",
		"tls a@b.example\ntls c@d.example", "tls \"a@b c\"", "tls {\n\tissuer acme {\n\t\temail nonsense\n\t}\n}", "tls a@b.example {\n\tissuer acme {\n\t\temail c@d.example\n\t}\n}", "tls {\n\tca https://a\n\tca https://b\n}",
		"tls {\n\tca https://a\n\tissuer acme https://b\n}", "tls {\n\tissuer acme\n\tissuer internal\n}", "tls internal\ntls a@b.example", "tls internal {\n\tca https://a\n}",
		"tls a.pem b.pem\ntls c.pem d.pem", "tls a.pem b.pem {\n\ton_demand\n}", "tls a.pem b.pem {\n\tissuer internal\n}", "tls {\n\tclient_auth {\n\t\tmode require\n\t\tmode request\n\t}\n}",
		"log {\n\toutput stdout\n\toutput stderr\n}", "log {\n\tformat json\n\tformat console\n}", "log {\n\tlevel INFO\n\tlevel ERROR\n}", "log {\n\toutput file a {\n\t\troll_keep 1\n\t\troll_keep 2\n\t}\n}",
		"encode gzip gzip", "encode {\n\tgzip\n\tgzip\n}", "encode gzip {\n\tminimum_length 1\n\tminimum_length 2\n}", "file_server {\n\troot a\n\troot b\n}", "request_body {\n\tmax_size 1\n\tmax_size 2\n}",
		"forward_auth a:1 {\n\turi /a\n\turi /b\n}", "reverse_proxy a:1 {\n\theader_up Host a\n\theader_up Host b\n}", "reverse_proxy {\n\tdynamic a x 80 {\n\t\trefresh 1s\n\t\trefresh 2s\n\t}\n}",
		"@a {\n\tprotocol http\n\tprotocol https\n}",
		"import", "import nothing", "vars a b", "map a b", "templates", "nonsense", "reverse_proxy a:1 }", "respond \"x", "respond <<X\nx",
	}
}

func refusedGlobals() []string {
	return []string{"email", "email nonsense", "default_sni \"a b\"", "email a b", "http_port x", "http_port 443", "http_port 70000", "admin on", "debug yes", "auto_https maybe", "grace_period 5", "grace_period 0s",
		"storage redis", "storage file_system a b", "servers :443 {\n}", "servers {\n\tprotocols h1\n}", "servers {\n\ttimeouts x {\n\t}\n}", "servers {\n\ttimeouts {\n\t\tread_body 1s\n\t}\n}",
		"servers {\n\ttrusted_proxies cloudflare\n}", "servers {\n\ttrusted_proxies static\n}", "servers {\n\tclient_ip_headers X\n}", "on_demand_tls", "on_demand_tls x {\n}", "email a\nemail b",
		"acme_ca x", "log {\n}", "on_demand_tls {\n\task http://a\n\task http://b\n}", "servers {\n\tmax_header_size 1KB\n\tmax_header_size 2KB\n}",
		"servers {\n\tmax_header_size 1KB\n}\nservers {\n\tmax_header_size 2KB\n}", "servers {\n\ttimeouts {\n\t\tidle 1s\n\t\tidle 2s\n\t}\n}", "local_certs yes", "order a first", "default_bind", "persist_config on", "metrics"}
}

func refusedFiles() []string {
	return []string{"http://a.local {\n\tbind 0.0.0.0 [::]\n}\n", "http://*:8080 {\n}\n", "* {\n}\n", "http://a.local {\n\tbind 127.0.0.1\n}\nhttp://b.local {\n}\n", "a.local {\n\tbind 127.0.0.1\n}\nb.local {\n}\n",
		"http://a.local {\n\tbind ::1\n}\nb.local {\n}\n", "{\n\tdefault_bind 127.0.0.1\n}\nhttp://a.local {\n\tbind 0.0.0.0\n}\nhttp://b.local {\n}\n",
		"", "# nothing\n", "{\n}\n", "a b {\n", "}\n", "{\n}\n{\n}\n", "http://a:443 {\n}\n", "https://a:80 {\n}\n", "a/b {\n}\n", "ws://a {\n}\n", "0.0.0.0:80 {\n}\n", "a_b!c {\n}\n",
		"{env.X} {\n}\n", "http://a {\n\ttls internal\n}\n", "a.local:80 {\n\ttls internal\n}\n", "a.local {\n}\na.local:443 {\n}\n", ":443 {\n}\n", "https:// {\n\ttls {\n\t\ton_demand\n\t}\n}\n",
		"{\n\ton_demand_tls {\n\t\task http://a\n\t}\n}\nhttps:// {\n\ttls internal {\n\t\ton_demand\n\t}\n}\n",
		"a.local {\n}\na.local. {\n}\n", "b\u00fc.example {\n}\nxn--b-eha.example {\n}\n", "a.local {\n}\nhttp://a.local. {\n}\n",
		"(a) {\n}\n(a) {\n}\nb.local {\n}\n", "&(a) {\n}\n", "a.local {\n} b\n", "a.local { respond x\n}\n", "a.local {\n\t{\n\t}\n}\n", "a.local {\n\timport x {\n\t}\n}\n"}
}

// refusedTexts returns them all as files.
func refusedTexts() []string {
	all := refusedFiles()
	for _, body := range refusedBodies() {
		all = append(all, "home.local {\n"+body+"\n}\n")
	}
	for _, global := range refusedGlobals() {
		all = append(all, "{\n"+global+"\n}\nhome.local {\n\trespond x\n}\n")
	}
	return all
}

func TestNothingIsIgnored(t *testing.T) {
	for _, text := range refusedTexts() {
		_, err := caddyfile.Parse("Caddyfile", []byte(text), caddyfile.Options{})
		assert.Error(t, err, "%q", text)
	}
}
