package serve_test

import (
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A readCounter is a file as io.Copy passes it to a ReadFrom: another type with
// all methods of the file except WriteTo.
type readCounter struct {
	*os.File
	unwritable
	reads *atomic.Int64
}

type unwritable struct{}

func (unwritable) WriteTo(io.Writer) (int64, error) { panic("hides that of the file") }

func (f readCounter) Read(p []byte) (int, error) {
	f.reads.Add(int64(len(p)))
	return f.File.Read(p)
}

func TestACopiedFileIsSentBySendfile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	const size = 1 << 20
	require.NoError(t, os.WriteFile(name, bytes.Repeat([]byte("x"), size), 0o600))
	var reads atomic.Int64
	asNetHTTP(t, func(w http.ResponseWriter, q *http.Request) {
		f, err := os.Open(name)
		if !assert.NoError(t, err) {
			return
		}
		defer f.Close()
		w.Header().Set("Content-Length", strconv.Itoa(size))
		n, err := w.(io.ReaderFrom).ReadFrom(readCounter{f, unwritable{}, &reads})
		assert.NoError(t, err)
		assert.EqualValues(t, size, n)
	}, func(t *testing.T, url string) {
		reads.Store(0)
		res, err := http.Get(url)
		require.NoError(t, err)
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		assert.Len(t, body, size)
		assert.Less(t, reads.Load(), int64(64<<10), "only the beginning is read, to guess the type")
	})
}
