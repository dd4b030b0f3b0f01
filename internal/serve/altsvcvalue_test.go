package serve_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"golang.org/x/net/http/httpguts"

	"github.com/hostproxy/hostproxy/internal/serve"
)

// A valid Alt-Svc value stays valid in a list, and is a valid header value.
func FuzzAltSvcValue(f *testing.F) {
	for _, s := range []string{`h3=":443"; ma=86400`, `h3=443`, "clear", `h2="a\"b:1", w%3Dx=":1"; x="a,b"`, `h3=":1";`, `h3="\`, "h3=\":1\" \t"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if serve.AltSvcFault(s) != nil {
			return
		}
		assert.True(t, httpguts.ValidHeaderFieldValue(s))
		h := http.Header{"Alt-Svc": {s}}
		assert.NoError(t, h.Write(&strings.Builder{}))
		if s != "clear" && len(s) < 1000 {
			assert.NoError(t, serve.AltSvcFault(s+", "+s))
			assert.NoError(t, serve.AltSvcFault(`h3=":1"; x="`+`y",`+s))
		}
	})
}
