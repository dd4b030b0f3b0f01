package reload_test

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/examples/reload"
)

func TestTheFilesInTheREADMEAreRight(t *testing.T) {
	text, err := os.ReadFile("README.md")
	require.NoError(t, err)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "users"), "ann:$2a$04$r.H.IwusjCYoQM/2jE2t1ex2PJE9s8XUMzwU8yUGnPrQeuF57GLjS\n")
	require.NoError(t, os.Rename(string(pemFile(t, "localhost")), filepath.Join(dir, "targets.pem")))
	all := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatch(text, -1)
	require.Len(t, all, 2)
	for _, m := range all {
		_, err := reload.LoadText(filepath.Join(dir, "proxy.yaml"), m[1])
		assert.NoError(t, err, "%s", m[1])
	}
}
