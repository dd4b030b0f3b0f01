package reload_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io/fs"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/reload"
)

// notInTheFile lists the fields that a file cannot set, with the reason.
// Read-only.
var notInTheFile = map[string]string{
	"Upstream.Pick":              "a func: Policy chooses",
	"Upstream.Transport":         "an interface of the program",
	"Upstream.Dial":              "a func",
	"Upstream.Rewrite":           "a func: StripPrefix, AddPrefix and RequestHeader are fixed changes",
	"Upstream.ModifyResponse":    "a func: ResponseHeader is a fixed change",
	"Upstream.ErrorHandler":      "a func: Pages are fixed",
	"Upstream.TargetChanged":     "a func: changes are logged",
	"Upstream.Wake":              "funcs that start and stop programs; see examples/ondemand",
	"Upstream.ReadyTimeout":      "for Upstream.Replace, which a reload does not call",
	"Upstream.DrainTimeout":      "for Upstream.Replace, which a reload does not call",
	"Upstream.RateLimit.Limiter": "an interface of the program; see examples/cluster",
	"Upstream.RateLimit.By.Func": "a func",
	"Router.Logger":              "Log sets it",
	"Router.Observe":             "Log.Access sets it",
	"Router.Begin":               "a func: Proxy.Prepare sets it",
	"Router.BeginAttempt":        "a func: Proxy.Prepare sets it",
	"Router.RateLimit.Limiter":   "an interface of the program: Proxy.Prepare sets it",
	"Router.RateLimit.By.Func":   "a func",
	"Server.Router":              "the proxy's own",
	"Server.Handler":             "middleware: Proxy.Prepare sets it",
	"Server.Addr":                "Listeners has all addresses",
	"Server.HTTPAddr":            "Listeners has all addresses",
	"Server.H2C":                 "for the listener that is an argument of Serve: Listener.H2C is its own",
	"Server.Sockets":             "Listener.Socket names an inherited one",
	"Server.HandOverTimeout":     "for Server.HandOver, which a reload does not call",
	"Server.Companions":          "an interface of the program: Proxy.Prepare sets it",
	"Server.Listeners":           "Config.Listeners",
	"Listener.Listener":          "an open listener: Socket names an inherited one",
	"TLS.Host":                   "a func: Hosts has its results",
	"TLS.DNS":                    "an interface, with a module for each provider: Proxy.Prepare sets it",
	"TLS.Hello":                  "a func: Proxy.Prepare sets it",
	"TLS.Observe":                "a func: Proxy.Prepare sets it",
	"HostTLS.Certificate":        "a value in memory: Files names its files",
	"HostTLS.ClientAuth.CAs":     "a value in memory: CAFiles names its files",
	"Passthrough.Dial":           "a func",
	"Guard.Next":                 "the handler of the route",
	"Guard.RateLimit.Limiter":    "an interface of the program; see examples/cluster",
	"Guard.RateLimit.By.Func":    "a func",
	"BasicAuth.Users":            "UsersFile: hashes are secrets",
	"BasicAuth.Next":             "the handler of the route",
	"ForwardAuth.Next":           "the handler of the route",
	"Upstream.Sticky.Key":        "KeyFile: the key is a secret",
}

// Each exported field of hostproxy's settings can be set in a file, or is in
// notInTheFile.
func TestEverySettingOfHostproxyIsInTheFileOrHasAReasonWhyNot(t *testing.T) {
	used := map[string]bool{}
	for _, x := range []struct{ host, ours reflect.Type }{
		{reflect.TypeFor[hostproxy.Upstream](), reflect.TypeFor[reload.Upstream]()},
		{reflect.TypeFor[hostproxy.Server](), reflect.TypeFor[reload.Server]()},
		{reflect.TypeFor[hostproxy.Listener](), reflect.TypeFor[reload.Listener]()},
		{reflect.TypeFor[hostproxy.Router](), reflect.TypeFor[reload.Config]()},
		{reflect.TypeFor[hostproxy.TLS](), reflect.TypeFor[reload.TLS]()},
		{reflect.TypeFor[hostproxy.HostTLS](), reflect.TypeFor[reload.HostTLS]()},
		{reflect.TypeFor[hostproxy.Passthrough](), reflect.TypeFor[reload.Passthrough]()},
		{reflect.TypeFor[hostproxy.Guard](), reflect.TypeFor[reload.Guard]()},
		{reflect.TypeFor[hostproxy.BasicAuth](), reflect.TypeFor[reload.BasicAuth]()},
		{reflect.TypeFor[hostproxy.ForwardAuth](), reflect.TypeFor[reload.ForwardAuth]()},
	} {
		covered(t, x.host, x.ours, x.host.Name(), used)
	}
	for name, reason := range notInTheFile {
		assert.True(t, used[name] || reason == "", "%s is on the list, but there is no such field, or the file can set it", name)
	}
}

func structOf(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	return t
}

func covered(t *testing.T, host, own reflect.Type, path string, used map[string]bool) {
	for i := range host.NumField() {
		f := host.Field(i)
		name := path + "." + f.Name
		if !f.IsExported() {
			continue
		}
		c, ok := own.FieldByName(f.Name)
		if notInTheFile[name] != "" {
			used[name] = !ok || c.Type != f.Type
			continue
		}
		if !assert.True(t, ok, "%s cannot be set in a file: add it, or the reason why not", name) {
			continue
		}
		if below, mine := structOf(f.Type), structOf(c.Type); reload.Ours(below) && below.Kind() == reflect.Struct && f.Type.Kind() != reflect.Slice && name != "Router.TLS" && name != "ForwardAuth.Auth" {
			covered(t, below, mine, name, used)
		}
	}
}

// pemFile writes a certificate and its key into one file. The file also serves
// as any other secret.
func pemFile(t *testing.T, hosts ...string) reload.File {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, DNSNames: hosts,
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	require.NoError(t, err)
	text, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	name := filepath.Join(t.TempDir(), "pem")
	all := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text})...)
	require.NoError(t, os.WriteFile(name, all, 0o600))
	return reload.File(name)
}

// complete sets all fields of v. A string that must be one of several words
// gets the last of them.
func complete(v reflect.Value, file reload.File, tag reflect.StructTag) {
	switch x := v.Addr().Interface().(type) {
	case *reload.File:
		*x = file
		return
	case *netip.Prefix:
		*x = netip.MustParsePrefix("10.0.0.0/8")
		return
	case *netip.Addr:
		*x = netip.MustParseAddr("10.0.0.1")
		return
	case *fs.FileMode:
		*x = 0o660
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		complete(v.Elem(), file, tag)
	case reflect.Struct:
		for i := range v.NumField() {
			complete(v.Field(i), file, v.Type().Field(i).Tag)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		complete(v.Index(0), file, tag)
	case reflect.Map:
		k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		complete(k, file, "")
		complete(e, file, "")
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(k, e)
	case reflect.String:
		s := "http://localhost:4000"
		if words := strings.Fields(tag.Get("one")); len(words) > 0 {
			s = words[len(words)-1]
		}
		v.SetString(s)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Float64:
		v.SetFloat(0.5)
	default:
		v.SetInt(int64(time.Hour))
		if v.Type() != reflect.TypeFor[time.Duration]() {
			v.SetInt(500)
		}
	}
}

// arrives requires that each field of v is set, and each field of the hostproxy
// structures in v, unless notInTheFile has it.
func arrives(t *testing.T, v reflect.Value, path string) {
	t.Helper()
	for i := range v.NumField() {
		f, name := v.Field(i), path+"."+v.Type().Field(i).Name
		if !v.Type().Field(i).IsExported() || notInTheFile[name] != "" && name != "Upstream.Sticky.Key" {
			continue
		}
		assert.False(t, f.IsZero(), "%s does not arrive", name)
		if below := reflect.Indirect(f); below.Kind() == reflect.Struct && reload.Ours(below.Type()) {
			arrives(t, below, name)
		}
	}
}

func TestEverySettingOfAnUpstreamReachesHostproxy(t *testing.T) {
	c := new(reload.Upstream)
	complete(reflect.ValueOf(c).Elem(), pemFile(t), "")
	c.Discover.SRV = nil
	u := reload.NewUpstream(c)
	arrives(t, reflect.ValueOf(u).Elem(), "Upstream")
	assert.Equal(t, hostproxy.ConsistentHash, u.Policy)
	assert.NotEmpty(t, u.TLS.RootCAs)
	assert.NotEmpty(t, u.TLS.Certificates)
	assert.Equal(t, "http://localhost:4000", u.TLS.ServerName)
	assert.True(t, u.TLS.InsecureSkipVerify)
	assert.EqualValues(t, 0x0304, u.TLS.MinVersion)
}

func TestEverySettingOfAServerAndARouterReachesHostproxy(t *testing.T) {
	c := new(reload.Config)
	complete(reflect.ValueOf(&c.Server).Elem(), "", "")
	complete(reflect.ValueOf(&c.RequestID).Elem(), "", "")
	complete(reflect.ValueOf(&c.RateLimit).Elem(), "", "")
	complete(reflect.ValueOf(&c.ResponseHeader).Elem(), "", "")
	c.ResponseHeader.SetFiles = nil
	complete(reflect.ValueOf(&c.HSTS).Elem(), "", "")
	complete(reflect.ValueOf(&c.TrustedProxies).Elem(), "", "")
	complete(reflect.ValueOf(&c.NotFound).Elem(), "", "")
	c.NotFound.BodyFile = ""
	s := reload.NewServer(t, c)
	arrives(t, reflect.ValueOf(s).Elem(), "Server")
	arrives(t, reflect.ValueOf(s.Router).Elem().FieldByName("RateLimit").Elem(), "Router.RateLimit")
	arrives(t, reflect.ValueOf(&s.Router.RequestID).Elem(), "RequestID")
	arrives(t, reflect.ValueOf(&s.Router.ResponseHeader).Elem(), "ResponseHeader")
	arrives(t, reflect.ValueOf(s.Router.HSTS).Elem(), "HSTS")
	assert.NotEmpty(t, s.Router.TrustedProxies)
	assert.NotNil(t, s.Router.NotFound)
}

func TestEverySettingOfTLSReachesHostproxy(t *testing.T) {
	c := new(reload.Config)
	complete(reflect.ValueOf(&c.TLS).Elem(), pemFile(t, "localhost"), "")
	c.TLS.Config.CipherSuites = []string{"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"}
	tls := reload.NewTLS(&c.TLS)
	tls.HostPolicy = nil
	for i, v := 0, reflect.ValueOf(&tls).Elem(); i < v.NumField(); i++ {
		name := v.Type().Field(i).Name
		if notInTheFile["TLS."+name] == "" && name != "HostPolicy" { // Proxy.prepare sets that
			assert.False(t, v.Field(i).IsZero(), "TLS.%s does not arrive", name)
		}
	}
	assert.Len(t, tls.Config.CipherSuites, 1)
	assert.True(t, tls.Config.SessionTicketsDisabled)
	h := reload.NewHost(c.TLS.Hosts["http://localhost:4000"])
	arrives(t, reflect.ValueOf(&h).Elem(), "HostTLS")
}

func TestEveryConfigPrintsAndParsesToTheSame(t *testing.T) {
	c := new(reload.Config)
	complete(reflect.ValueOf(c).Elem(), "a file: with #odd \"name\"\u2028\U0001F600", "")
	again, err := reload.Parse("proxy.yaml", []byte(c.String()))
	require.NoError(t, err, "%s", c)
	assert.Equal(t, c, again)
	negative := &reload.Config{Server: reload.Server{IdleTimeout: -1, MaxHandshakes: -1}, Upstreams: map[string]*reload.Upstream{"null": {Retry: reload.Retry{Budget: -1}, StreamGrace: -1, Upgrades: []string{}}}}
	again, err = reload.Parse("proxy.yaml", []byte(negative.String()))
	require.NoError(t, err, "%s", negative)
	assert.Equal(t, negative, again)
}

// reference.yaml must have each key of a Config, and must be valid.
func TestTheReferenceHasEachKeyAndIsValid(t *testing.T) {
	text, err := os.ReadFile("reference.yaml")
	require.NoError(t, err)
	c, err := reload.Parse("reference.yaml", text)
	require.NoError(t, err)
	used := map[reflect.Type]map[string]bool{}
	note(reflect.ValueOf(c).Elem(), used)
	defaults := map[string]bool{"Level": true, "Format": true, "Policy": true, "KeyType": true, "Role": true, "MinVersion": true, "Mode": true, "Scheme": true}
	for s, fields := range used {
		for i := range s.NumField() {
			name := s.Field(i).Name
			assert.True(t, fields[name] || defaults[name] && s.Field(i).Tag.Get("one") != "", "%v.%s is not in reference.yaml", s, name)
		}
	}
	for _, s := range []any{reload.Issuer{}, reload.HostTLS{}, reload.Upstream{}, reload.Route{}, reload.HealthCheck{}, reload.SRVSource{}, reload.ProxyProtocol{}} {
		assert.Contains(t, used, reflect.TypeOf(s))
	}
}

// note records the fields that are set, by structure.
func note(v reflect.Value, used map[reflect.Type]map[string]bool) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			note(v.Elem(), used)
		}
	case reflect.Slice:
		for i := range v.Len() {
			note(v.Index(i), used)
		}
	case reflect.Map:
		for _, e := range v.Seq2() {
			note(e, used)
		}
	case reflect.Struct:
		if !strings.HasSuffix(v.Type().PkgPath(), "examples/reload") || v.IsZero() {
			return
		}
		if used[v.Type()] == nil {
			used[v.Type()] = map[string]bool{}
		}
		for i := range v.NumField() {
			if !v.Field(i).IsZero() {
				used[v.Type()][v.Type().Field(i).Name] = true
				note(v.Field(i), used)
			}
		}
	}
}
