package main

import (
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestLabelsSetTheRouteAndItsSettings(t *testing.T) {
	for name, c := range map[string]struct {
		labels map[string]string
		want   wishes
	}{
		"a host":         {map[string]string{"hostproxy.host": "a.test"}, wishes{patterns: []string{"a.test"}, settings: settings{scheme: "http"}}},
		"hosts":          {map[string]string{"hostproxy.host": "A.test, b.test.,a.test"}, wishes{patterns: []string{"a.test", "b.test"}, settings: settings{scheme: "http"}}},
		"a host in IDNA": {map[string]string{"hostproxy.host": "bücher.test"}, wishes{patterns: []string{"xn--bcher-kva.test"}, settings: settings{scheme: "http"}}},
		"a path":         {map[string]string{"hostproxy.host": "a.test,b.test", "hostproxy.path": "/api/"}, wishes{patterns: []string{"a.test/api", "b.test/api"}, settings: settings{scheme: "http"}}},
		"a stripped path": {map[string]string{"hostproxy.host": "a.test", "hostproxy.path": "/api", "hostproxy.strip": "true"},
			wishes{patterns: []string{"a.test/api"}, settings: settings{scheme: "http", strip: "/api"}}},
		"all": {map[string]string{"hostproxy.host": "a.test", "hostproxy.port": " 80 ", "hostproxy.health": "/up", "hostproxy.scheme": "h2c", "hostproxy.network": "web",
			"hostproxy.group": "g", project: "shop", "hostproxy.strip": "false", "traefik.enable": "true"},
			wishes{patterns: []string{"a.test"}, port: 80, network: "web", group: "g", settings: settings{scheme: "h2c", health: "/up"}}},
		"a project":  {map[string]string{"hostproxy.host": "a.test", project: "shop"}, wishes{patterns: []string{"a.test"}, settings: settings{scheme: "http"}, group: "shop"}},
		"a wildcard": {map[string]string{"hostproxy.host": "*.a.test"}, wishes{patterns: []string{"*.a.test"}, settings: settings{scheme: "http"}}},
	} {
		got, err := readLabels(c.labels)
		require.NoError(t, err, name)
		for i := range got.patterns { // the Router may add or drop the slash
			got.patterns[i] = strings.TrimSuffix(got.patterns[i], "/")
		}
		assert.Equal(t, c.want, got, name)
	}
}

func TestAllInvalidLabelsAreReported(t *testing.T) {
	long := strings.Repeat("x", maxLabel+1)
	for name, c := range map[string]struct {
		labels map[string]string
		says   []string
	}{
		"no host":            {map[string]string{"hostproxy.port": "80"}, []string{"hostproxy.host is missing"}},
		"a typo":             {map[string]string{"hostproxy.prot": "80"}, []string{`"hostproxy.prot" is unknown`, "hostproxy.port"}},
		"Traefik's habit":    {map[string]string{"hostproxy.enable": "true", "hostproxy.http.routers.a.rule": "x"}, []string{"hostproxy.enable", "hostproxy.http.routers.a.rule"}},
		"an odd name":        {map[string]string{"hostproxy.": "x", "hostproxy.\x00\n": "y"}, []string{`"hostproxy." is unknown`, `"hostproxy.\x00\n" is unknown`}},
		"an empty one":       {map[string]string{"hostproxy.host": " "}, []string{"hostproxy.host is empty"}},
		"a huge one":         {map[string]string{"hostproxy.host": long, "hostproxy.health": long}, []string{"hostproxy.host has 4097 bytes", "hostproxy.health has 4097 bytes"}},
		"many hosts":         {map[string]string{"hostproxy.host": strings.Repeat("a,", 65)}, []string{"at most 64"}},
		"hosts that are not": {map[string]string{"hostproxy.host": "a..b,-,a b,a.test/x,"}, []string{"a..b", `"a b"`, `"a.test/x"`, `host ""`}},
		"a URL":              {map[string]string{"hostproxy.host": "https://a.test"}, []string{"want a name such as a.example.com"}},
		"a host with a port": {map[string]string{"hostproxy.host": "a.test:8080"}, []string{"a.test:8080"}},
		"values": {map[string]string{"hostproxy.host": "a.test", "hostproxy.port": "0", "hostproxy.path": "api", "hostproxy.strip": "yes", "hostproxy.health": "up", "hostproxy.scheme": "https"},
			[]string{`hostproxy.port is "0"`, `hostproxy.path is "api"`, `hostproxy.strip is "yes"`, `hostproxy.health is "up"`, `hostproxy.scheme is "https"`}},
		"names and values": {map[string]string{"hostproxy.hots": "a.test", "hostproxy.port": "x", "hostproxy.health": ""},
			[]string{`"hostproxy.hots" is unknown`, "hostproxy.host is missing", `hostproxy.port is "x"`, "hostproxy.health is empty"}},
		"a host and a port":      {map[string]string{"hostproxy.host": "a..b", "hostproxy.port": "x"}, []string{"a..b", `hostproxy.port is "x"`}},
		"strip alone":            {map[string]string{"hostproxy.host": "a.test", "hostproxy.strip": "true"}, []string{"requires hostproxy.path"}},
		"a mapping":              {map[string]string{"hostproxy.host": "a.test", "hostproxy.port": "8080:80"}, []string{"the container's own port"}},
		"a star":                 {map[string]string{"hostproxy.host": "a.*.test"}, []string{"a.*.test"}},
		"a path with dots":       {map[string]string{"hostproxy.host": "a.test", "hostproxy.path": "/../x"}, []string{"/../x"}},
		"an invalid health path": {map[string]string{"hostproxy.host": "a.test", "hostproxy.health": "/up now\n"}, []string{"Health.Path is"}},
	} {
		_, err := readLabels(c.labels)
		require.Error(t, err, name)
		for _, s := range c.says {
			assert.ErrorContains(t, err, s, name)
		}
		assert.LessOrEqual(t, len(refuse("a", err).reason), 6000, name)
		assert.NotContains(t, refuse("a", err).reason, "\n", name)
	}
}

func TestTheTargetOfAContainerDependsOnWhereTheProxyRuns(t *testing.T) {
	nets := func(all map[string]any) any { return all }
	at := func(ip string) any { return map[string]any{"IPAddress": ip, "GlobalIPv6Address": ""} }
	at6 := func(ip string) any { return map[string]any{"IPAddress": "", "GlobalIPv6Address": ip} }
	base := newBox("a", "172.18.0.2:80", "hostproxy.host=a.test")
	networks := func(all map[string]any) box { return base.with("NetworkSettings.Networks", nets(all)) }
	published := func(ip, port string) box {
		return base.with("NetworkSettings.Ports", map[string]any{"80/tcp": []any{map[string]any{"HostIp": ip, "HostPort": port}}})
	}
	inside := place{id: "self", networks: []string{"web", "zweb"}, gateway: "172.18.0.1"}
	linux, desktop := place{onHost: true, direct: true}, place{onHost: true}
	named := func(p place, network string) place { p.network = network; return p }
	exposes := func(ports ...string) box {
		m := map[string]any{}
		for _, p := range ports {
			m[p] = map[string]any{}
		}
		return base.with("Config", map[string]any{"ExposedPorts": m, "Labels": map[string]any{"hostproxy.host": "a.test"}})
	}
	labelled := func(b box, network string) box {
		return b.with("Config", map[string]any{"Labels": map[string]any{"hostproxy.host": "a.test", "hostproxy.port": "80", "hostproxy.network": network, project: "shop"}})
	}
	several := networks(map[string]any{"db": at("10.0.0.2"), "zweb": at("10.0.2.2"), "web": at("10.0.1.2"), "shop_front": at("10.0.3.2")})
	for name, c := range map[string]struct {
		place place
		box   box
		want  string // a URL, or a part of the error
	}{
		"inside, one network":                    {inside, base, "http://172.18.0.2:80"},
		"inside, published ports do not matter":  {inside, published("0.0.0.0", "4006"), "http://172.18.0.2:80"},
		"inside, the first of those shared":      {inside, several, "http://10.0.1.2:80"},
		"inside, the flag chooses":               {named(inside, "zweb"), several, "http://10.0.2.2:80"},
		"inside, the flag is elsewhere":          {named(inside, "other"), several, "http://10.0.1.2:80"},
		"inside, the label chooses":              {inside, labelled(several, "zweb"), "http://10.0.2.2:80"},
		"inside, a network of the project":       {place{networks: []string{"shop_front"}}, labelled(several, "front"), "http://10.0.3.2:80"},
		"inside, the label is not shared":        {inside, labelled(several, "db"), `is "db", which the proxy is not on`},
		"inside, the label is unknown":           {inside, labelled(several, "nope"), `name one of these`},
		"inside, none shared":                    {inside, networks(map[string]any{"db": at("10.0.0.2")}), "docker network connect NETWORK a"},
		"inside, no network":                     {inside, networks(map[string]any{}), "put both on one network"},
		"inside, IPv6":                           {inside, networks(map[string]any{"web": at6("fd00::2")}), "http://[fd00::2]:80"},
		"inside, no address":                     {inside, networks(map[string]any{"web": at("")}), "it has no address"},
		"inside, an odd address":                 {inside, networks(map[string]any{"web": at("evil.test/x")}), "it has no address"},
		"inside, the host's network":             {inside, base.with("HostConfig.NetworkMode", "host"), "http://172.18.0.1:80"},
		"inside, the host's network, no gateway": {place{id: "self"}, base.with("HostConfig.NetworkMode", "host"), "none of the proxy's networks has a gateway"},
		"inside, no network mode":                {inside, base.with("HostConfig.NetworkMode", "none"), `"none"`},
		"inside, another container's":            {inside, base.with("HostConfig.NetworkMode", "container:abc"), "the labels on the container whose network it uses"},
		"the proxy itself":                       {place{id: "a"}, base, "this is the proxy itself"},
		"on the host, published":                 {linux, published("0.0.0.0", "4006"), "http://127.0.0.1:4006"},
		"on the host, published for IPv6":        {linux, published("::", "4006"), "http://[::1]:4006"},
		"on the host, published on an address":   {linux, published("192.0.2.1", "4006"), "http://192.0.2.1:4006"},
		"on the host, published by Podman":       {linux, published("", "4006"), "http://127.0.0.1:4006"},
		"on the host, published at nonsense":     {linux, published("x", "-1"), "http://172.18.0.2:80"},
		"on the host, not published":             {linux, base, "http://172.18.0.2:80"},
		"on the host, a label":                   {linux, labelled(several, "db"), "http://10.0.0.2:80"},
		"on the host, its network":               {linux, base.with("HostConfig.NetworkMode", "host"), "http://127.0.0.1:80"},
		"on the host, rootless, not published":   {linux, networks(map[string]any{"pasta": at("")}), "-p 127.0.0.1::80"},
		"Docker Desktop, published":              {desktop, published("0.0.0.0", "4006"), "http://127.0.0.1:4006"},
		"Docker Desktop, not published":          {desktop, base, "-p 127.0.0.1::80"},
		"one port exposed":                       {inside, exposes("8080/tcp", "53/udp"), "http://172.18.0.2:8080"},
		"no port exposed":                        {inside, exposes("53/udp"), "say with hostproxy.port on which"},
		"two ports exposed":                      {inside, exposes("80/tcp", "81/tcp"), "80, 81: say with hostproxy.port"},
		"an odd port exposed":                    {inside, exposes("80@evil/tcp"), "which is no port"},
	} {
		l, err := newClaim(c.box.container(t), c.place, false)
		if strings.HasPrefix(c.want, "http://") {
			if assert.NoError(t, err, name) {
				assert.Equal(t, c.want, l.target, name)
			}
			continue
		}
		assert.ErrorContains(t, err, c.want, name)
	}
}

func TestTheOldestContainerGetsTheHost(t *testing.T) {
	at := func(second string, b box) box { return b.with("Created", "2026-01-01T00:00:"+second+"Z") }
	a := at("01", newBox("a", "10.0.0.1:80", "hostproxy.host=a.test", project+"=p"))
	for name, c := range map[string]struct {
		boxes   []box
		fixed   string
		only    []string
		want    map[string][]string
		refused string // a part of the refusal; "" if there is none
	}{
		"two of one project": {boxes: []box{a, at("02", newBox("b", "10.0.0.2:80", "hostproxy.host=a.test", project+"=p"))},
			want: map[string][]string{"a.test": {"http://10.0.0.1:80", "http://10.0.0.2:80"}}},
		"two at one address": {boxes: []box{a, at("02", newBox("b", "10.0.0.1:80", "hostproxy.host=a.test", project+"=p"))},
			want: map[string][]string{"a.test": {"http://10.0.0.1:80"}}},
		"two projects": {boxes: []box{at("02", newBox("b", "10.0.0.2:80", "hostproxy.host=a.test,b.test", project+"=q")), a},
			want: map[string][]string{"a.test": {"http://10.0.0.1:80"}, "b.test": {"http://10.0.0.2:80"}}, refused: `belongs to container "a", which is older and in group "p", and this one is in "q"`},
		"two projects with a group": {boxes: []box{at("01", newBox("a", "10.0.0.1:80", "hostproxy.host=a.test", "hostproxy.group=g", project+"=p")),
			at("02", newBox("b", "10.0.0.2:80", "hostproxy.host=a.test", "hostproxy.group=g", project+"=q"))},
			want: map[string][]string{"a.test": {"http://10.0.0.1:80", "http://10.0.0.2:80"}}},
		"a path of another's host": {boxes: []box{a, at("02", newBox("b", "10.0.0.2:80", "hostproxy.host=a.test", "hostproxy.path=/login"))},
			want: map[string][]string{"a.test": {"http://10.0.0.1:80"}}, refused: `host "a.test" belongs to container "a"`},
		"the whole of another's path": {boxes: []box{at("00", newBox("b", "10.0.0.2:80", "hostproxy.host=a.test", "hostproxy.path=/x")), a},
			want: map[string][]string{"a.test/x/": {"http://10.0.0.2:80"}}, refused: `host "a.test" belongs to container "b"`},
		"settings that differ": {boxes: []box{a, at("02", newBox("b", "10.0.0.2:80", "hostproxy.host=a.test", "hostproxy.health=/up", project+"=p"))},
			want: map[string][]string{"a.test": {"http://10.0.0.1:80"}}, refused: `route "a.test" is that of container "a", which is older and says hostproxy.scheme="http" hostproxy.health="" hostproxy.strip=false, and this one says hostproxy.scheme="http" hostproxy.health="/up"`},
		"schemes that differ": {boxes: []box{a, at("02", newBox("b", "10.0.0.2:80", "hostproxy.host=a.test", "hostproxy.scheme=h2c", project+"=p"))},
			want: map[string][]string{"a.test": {"http://10.0.0.1:80"}}, refused: `this one says hostproxy.scheme="h2c"`},
		"as old, the ID decides": {boxes: []box{at("01", newBox("b", "10.0.0.2:80", "hostproxy.host=a.test")), a},
			want: map[string][]string{"a.test": {"http://10.0.0.1:80"}}, refused: `container "a"`},
		"fractions of a second": {boxes: []box{at("01.5", newBox("0", "10.0.0.2:80", "hostproxy.host=a.test")), a},
			want: map[string][]string{"a.test": {"http://10.0.0.1:80"}}, refused: `container "a"`},
		"the command line": {boxes: []box{a}, fixed: "a.test/x", want: map[string][]string{}, refused: "has a -route on the command line"},
		"a wildcard": {boxes: []box{newBox("w", "10.0.0.3:80", "hostproxy.host=*.test,*")}, want: map[string][]string{},
			refused: `"*.test" is a wildcard, which labels may claim only if -only`},
		"a wildcard that is allowed": {boxes: []box{newBox("w", "10.0.0.3:80", "hostproxy.host=*.test,b.test,c.b.test")}, only: []string{"*.test"},
			want: map[string][]string{"*.test": {"http://10.0.0.3:80"}, "b.test": {"http://10.0.0.3:80"}}, refused: `"c.b.test" is not one of those that -only allows: *.test`},
		"a bank":     {boxes: []box{newBox("w", "10.0.0.3:80", "hostproxy.host=bank.example")}, only: []string{"a.test", "*.a.test"}, want: map[string][]string{}, refused: "bank.example"},
		"all":        {boxes: []box{newBox("w", "10.0.0.3:80", "hostproxy.host=*,x.y.z")}, only: []string{"*"}, want: map[string][]string{"*": {"http://10.0.0.3:80"}, "x.y.z": {"http://10.0.0.3:80"}}},
		"none ready": {boxes: []box{a.with("State.Status", "paused")}, want: map[string][]string{"a.test": nil}},
		"a paused one keeps its host": {boxes: []box{a.with("State.Status", "paused"), at("02", newBox("b", "10.0.0.2:80", "hostproxy.host=a.test"))},
			want: map[string][]string{"a.test": nil}, refused: `container "a"`},
	} {
		p := newProxy(slog.New(slog.DiscardHandler), false)
		for _, o := range c.only {
			require.NoError(t, p.allow(o), name)
		}
		var claims []*claim
		for _, b := range c.boxes {
			l, err := newClaim(b.container(t), place{networks: []string{"web"}}, false)
			require.NoError(t, err, name)
			claims = append(claims, l)
		}
		fixed := map[string]bool{}
		if c.fixed != "" {
			fixed[c.fixed] = true
		}
		routes, refusals := resolve(claims, fixed, p.only)
		got := map[string][]string{}
		for pattern, r := range routes {
			got[pattern] = r.targets
		}
		assert.Equal(t, slices.Sorted(maps.Keys(c.want)), slices.Sorted(maps.Keys(got)), name)
		for pattern, want := range c.want {
			assert.ElementsMatch(t, want, got[pattern], name)
		}
		if c.refused == "" {
			assert.Empty(t, refusals, name)
		} else if assert.Len(t, refusals, 1, name) {
			assert.Contains(t, refusals[0].reason, c.refused, name)
		}
	}
}

func TestTheProxyFindsItsOwnContainer(t *testing.T) {
	self := newBox("self", "172.18.0.9:80")
	d := newDaemon(t).set(self, newBox("onhost", "127.0.0.1:80").with("HostConfig.NetworkMode", "host")).start()
	e, err := newEngine("unix://" + d.socket)
	require.NoError(t, err)
	t.Cleanup(e.client.CloseIdleConnections)
	p, err := locate(t.Context(), e, []string{"nobody", "self"}, own, "web")
	require.NoError(t, err)
	assert.Equal(t, place{id: "self", networks: []string{"web"}, gateway: "127.0.0.1", network: "web"}, p)
	p, err = locate(t.Context(), e, []string{"onhost"}, own, "")
	require.NoError(t, err)
	assert.True(t, p.onHost)
	_, err = locate(t.Context(), e, []string{"nobody"}, own, "")
	assert.ErrorContains(t, err, `none of ["nobody"]: give its name with -self`)
	for self, onHost := range map[string]bool{"host": true, "onhost": true, "self": false} {
		q := newProxy(slog.New(slog.DiscardHandler), true)
		q.self = self
		p, err = q.locate(t.Context(), e)
		require.NoError(t, err)
		assert.Equal(t, onHost, p.onHost, self)
	}
	d.set(newBox("0123456789ab", "172.18.0.8:80").with("Name", "/other"))
	_, err = locate(t.Context(), e, []string{"other"}, own, "")
	assert.ErrorContains(t, err, "give its name with -self", "its name is this host name, but it is another container")
	p, err = locate(t.Context(), e, []string{"other"}, chosen, "")
	require.NoError(t, err)
	assert.Equal(t, "0123456789ab", p.id)
	assert.NotEmpty(t, selves(), "the name of the machine at least")
}

// Patterns that labels are accepted for have the Router's spelling and lead to
// a route.
func FuzzLabels(f *testing.F) {
	f.Add("a.test,*.b.test", "/api", "80", "true", "/up", "host")
	f.Add("A..test, ,x/y", "api/%2e", "-1", "yes", "up?\n", "hosts")
	f.Fuzz(func(t *testing.T, host, path, port, strip, health, odd string) {
		labels := map[string]string{"hostproxy.host": host, "hostproxy." + odd: host}
		for k, v := range map[string]string{"path": path, "port": port, "strip": strip, "health": health} {
			if v != "" {
				labels[prefix+k] = v
			}
		}
		w, err := readLabels(labels)
		if err != nil {
			if strings.Contains(refuse("a", err).reason, "\n") {
				t.Fatalf("a refusal of two lines: %q", err)
			}
			return
		}
		if len(w.patterns) == 0 {
			t.Fatalf("%q is accepted for no host", labels)
		}
		for _, p := range w.patterns {
			if again, err := canonical(p, w.settings); err != nil || again != p {
				t.Fatalf("%q is accepted, and is then %q: %v", p, again, err)
			}
		}
	})
}
