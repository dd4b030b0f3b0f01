package caddyfile_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/examples/caddyfile"
)

// A sample is a Caddyfile and what is expected of it.
type sample struct {
	name, text string
	faults     []string // beginnings of the expected faults, without the file name
	exchanges  []exchange
}

// An exchange is a request, and what its response must contain.
type exchange struct {
	question
	status int
	header [][2]string // "" means that the header must be missing
	body   []string    // parts
}

// samples reads the corpus. Each file has a Caddyfile, a line with ----, and
// lines that begin with
//
//	!  a fault
//	>  a request, then its headers, and its body behind an empty one
//	<  the status of the response, then its headers
//	=  a part of the body
func samples(t testing.TB) (all []sample) {
	files, err := filepath.Glob("testdata/corpus/*.txt")
	require.NoError(t, err)
	for _, f := range files {
		text, err := os.ReadFile(f)
		require.NoError(t, err)
		file, want, ok := strings.Cut(string(text), "\n----\n")
		require.True(t, ok, f)
		s := sample{name: strings.TrimSuffix(filepath.Base(f), ".txt"), text: file + "\n"}
		for line := range strings.Lines(want) {
			s.expect(t, strings.TrimSpace(line))
		}
		require.True(t, len(s.faults) > 0 || len(s.exchanges) > 0, "%s expects nothing", f)
		all = append(all, s)
	}
	return all
}

var methods = regexp.MustCompile(`^[A-Z]+ https?://`)

func (s *sample) expect(t testing.TB, line string) {
	if line == "" {
		return
	}
	kind, rest := line[0], strings.TrimSpace(line[1:])
	if kind == '!' {
		s.faults = append(s.faults, rest)
		return
	}
	if kind == '>' && methods.MatchString(rest) {
		method, url, _ := strings.Cut(rest, " ")
		s.exchanges = append(s.exchanges, exchange{question: question{Method: method, URL: url, Header: http.Header{}}})
		return
	}
	e := &s.exchanges[len(s.exchanges)-1]
	name, value, _ := strings.Cut(rest, ":")
	value = strings.TrimSpace(value)
	switch {
	case kind == '>' && name == "body":
		e.Body = value
	case kind == '>':
		e.Header.Add(name, value)
	case kind == '<' && e.status == 0:
		_, err := fmt.Sscan(rest, &e.status)
		require.NoError(t, err, "%s: %s", s.name, line)
	case kind == '<':
		e.header = append(e.header, [2]string{name, value})
	case kind == '=':
		e.body = append(e.body, rest)
	default:
		t.Fatalf("%s: %s", s.name, line)
	}
}

// verify checks a response.
func (e exchange) verify(t testing.TB, a answer) {
	what := e.Method + " " + e.URL
	assert.Equal(t, e.status, a.Status, what)
	for _, h := range e.header {
		assert.Equal(t, h[1], strings.Join(a.Header.Values(h[0]), " | "), "%s: %s", what, h[0])
	}
	for _, part := range e.body {
		assert.Contains(t, a.Body, part, what)
	}
}

// targets starts the services that the samples call localhost:9001 to
// localhost:9003. It returns a func that inserts their addresses into a text.
// Nothing listens on localhost:9009.
func targets(t testing.TB) func(string) string {
	var pairs []string
	for i, name := range []string{"one", "two", "three"} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { echo(w, q, name) }))
		t.Cleanup(s.Close)
		pairs = append(pairs, fmt.Sprintf("localhost:900%d", i+1), strings.TrimPrefix(s.URL, "http://"))
	}
	gone := httptest.NewServer(nil)
	pairs = append(pairs, "localhost:9009", strings.TrimPrefix(gone.URL, "http://"))
	gone.Close()
	return strings.NewReplacer(pairs...).Replace
}

// echo answers with the request. The parameter code sets the status, and h a
// header of the response.
func echo(w http.ResponseWriter, q *http.Request, name string) {
	for _, h := range q.URL.Query()["h"] {
		field, value, _ := strings.Cut(h, "=")
		w.Header().Add(field, value)
	}
	code := 200
	fmt.Sscan(q.URL.Query().Get("code"), &code)
	if code == 413 {
		code = 200
	}
	if q.Method == http.MethodPost {
		if _, err := q.Body.Read(make([]byte, 1<<20)); err != nil && err.Error() != "EOF" {
			code = 400
		}
	}
	w.WriteHeader(code)
	fmt.Fprintf(w, "%s %s %s host=%s\n", name, q.Method, q.RequestURI, q.Host)
	var lines []string
	for field, values := range q.Header {
		if strings.HasPrefix(field, "X-") || strings.HasPrefix(field, "Remote-") || field == "Referer" {
			lines = append(lines, field+": "+strings.Join(values, ", "))
		}
	}
	slices.Sort(lines)
	fmt.Fprintln(w, strings.Join(lines, "\n"))
}

func TestCaddyfilesOfTheCorpusAreServedOrRefused(t *testing.T) {
	addresses := targets(t)
	translated, refused, all := 0, 0, samples(t)
	for _, s := range all {
		t.Run(s.name, func(t *testing.T) {
			if len(s.faults) > 0 {
				s.refused(t)
				refused++
				return
			}
			c, err := caddyfile.Parse("Caddyfile", []byte(addresses(s.text)), caddyfile.Options{Getenv: environment(addresses)})
			require.NoError(t, err)
			translated++
			servers, err := c.Servers()
			require.NoError(t, err)
			for _, srv := range servers {
				t.Cleanup(func() { srv.Router.Close() })
			}
			for _, e := range s.exchanges {
				e.verify(t, ask(servers, e.question))
			}
		})
	}
	assert.GreaterOrEqual(t, len(all), 60)
	share := fmt.Sprintf("%d of %d", translated, len(all))
	t.Logf("translated: %s", share)
	if translated+refused < len(all) {
		return // -run left some out, or some failed
	}
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	assert.Contains(t, string(readme), share, "the share in README.md")
}

// environment has the environment variables of the samples.
func environment(addresses func(string) string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		v, ok := map[string]string{"DOMAIN": "example.com", "APP": "localhost:9001", "GREETING": "hello there"}[name]
		return addresses(v), ok
	}
}

// refused compares all faults with the expected ones.
func (s sample) refused(t *testing.T) {
	_, err := caddyfile.Parse("Caddyfile", []byte(s.text), caddyfile.Options{Getenv: environment(strings.Clone)})
	var faults caddyfile.Faults
	require.ErrorAs(t, err, &faults)
	for i, f := range faults {
		text := strings.TrimPrefix(f.Error(), "Caddyfile:")
		if assert.Less(t, i, len(s.faults), "not expected: %s", text) {
			assert.True(t, strings.HasPrefix(text, s.faults[i]), "got  %s\nwant %s", text, s.faults[i])
		}
	}
	assert.GreaterOrEqual(t, len(faults), len(s.faults), "missing: %v", s.faults[min(len(faults), len(s.faults)):])
}
