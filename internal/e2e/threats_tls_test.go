package e2e_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A writer13 writes TLS 1.3 records as a client, with one key after the other
// (RFC 8446, 5 and 7), which crypto/tls does not allow.
type writer13 struct {
	secret []byte
	aead   cipher.AEAD
	iv     []byte
	seq    uint64
}

// newWriter13 continues for a client that has written nothing since its
// handshake. log has the lines of its KeyLogWriter.
func newWriter13(t testing.TB, log string) *writer13 {
	t.Helper()
	var label, random, secret string
	for line := range bytes.Lines([]byte(log)) {
		if _, err := fmt.Sscan(string(line), &label, &random, &secret); err == nil && label == "CLIENT_TRAFFIC_SECRET_0" {
			break
		}
	}
	w := new(writer13)
	_, err := fmt.Sscanf(secret, "%x", &w.secret)
	require.NoError(t, err)
	w.rekey(t)
	return w
}

func (w *writer13) expand(t testing.TB, label string, n int) []byte {
	t.Helper()
	info := binary.BigEndian.AppendUint16(nil, uint16(n))
	info = append(append(info, byte(len("tls13 ")+len(label))), "tls13 "+label...)
	out, err := hkdf.Expand(sha256.New, w.secret, string(append(info, 0)), n)
	require.NoError(t, err)
	return out
}

func (w *writer13) rekey(t testing.TB) {
	t.Helper()
	block, err := aes.NewCipher(w.expand(t, "key", 16))
	require.NoError(t, err)
	w.aead, err = cipher.NewGCM(block)
	require.NoError(t, err)
	w.iv, w.seq = w.expand(t, "iv", 12), 0
}

// keyUpdate appends a record with a KeyUpdate, and takes the next key.
func (w *writer13) keyUpdate(t testing.TB, b []byte, requested byte) []byte {
	t.Helper()
	b = w.record(b, []byte{24, 0, 0, 1, requested, 22})
	w.secret = w.expand(t, "traffic upd", sha256.Size)
	w.rekey(t)
	return b
}

func (w *writer13) record(b, inner []byte) []byte {
	head := []byte{23, 3, 3, 0, 0}
	binary.BigEndian.PutUint16(head[3:], uint16(len(inner)+w.aead.Overhead()))
	nonce := bytes.Clone(w.iv)
	for i := range 8 {
		nonce[4+i] ^= byte(w.seq >> (56 - 8*i))
	}
	w.seq++
	return w.aead.Seal(append(b, head...), nonce, inner, head)
}

// handshake13 opens a TLS 1.3 connection and returns the socket below it.
func (k *track) handshake13(t *testing.T) (net.Conn, *writer13) {
	t.Helper()
	raw, err := net.Dial("tcp", k.addr)
	require.NoError(t, err)
	t.Cleanup(func() { raw.Close() })
	var log bytes.Buffer
	conf := k.tls.Clone()
	conf.KeyLogWriter = &log
	c := tls.Client(raw, conf)
	require.NoError(t, c.Handshake())
	require.Equal(t, tls.TLS_AES_128_GCM_SHA256, c.ConnectionState().CipherSuite)
	return raw, newWriter13(t, log.String())
}

// The records of a writer13 are correct: a request after a few key updates is
// served.
func TestAFewKeyUpdatesAreAccepted(t *testing.T) {
	k := newFast(t, shape{secure: true})
	k.mirror.answer.Store(&answer{raw: ok})
	raw, w := k.handshake13(t)
	var b []byte
	for range 5 {
		b = w.keyUpdate(t, b, 0)
	}
	_, err := raw.Write(w.record(b, append([]byte(get), 23)))
	require.NoError(t, err)
	select {
	case x := <-k.records:
		assert.Equal(t, 200, x.Status)
	case <-time.After(proxytest.Patience):
		t.Fatal("the request was not served")
	}
}

// threats.md: CVE-2026-32283. A client that updates keys without end is cut
// off.
func TestAFloodOfKeyUpdatesEndsTheConnection(t *testing.T) {
	for name, requested := range map[string]byte{"one way": 0, "both ways": 1} {
		t.Run(name, func(t *testing.T) {
			for _, start := range []func(testing.TB, shape) *track{newFast, newForeign} {
				k := start(t, shape{secure: true})
				raw, w := k.handshake13(t)
				var flood []byte
				for range 10_000 {
					flood = w.keyUpdate(t, flood, requested)
				}
				_ = raw.SetDeadline(time.Now().Add(proxytest.Patience))
				_, _ = raw.Write(flood) // may fail in the middle
				_, err := io.Copy(io.Discard, raw)
				var late net.Error
				assert.False(t, errors.As(err, &late) && late.Timeout(), "%s: the connection stays open", k.name)
			}
		})
	}
}

// threats.md: CVE-2026-22045. A handshake for a challenge has the same time
// limit as others.
func TestAStalledChallengeHandshakeIsCutOff(t *testing.T) {
	t.Parallel()
	k := newFast(t, shape{secure: true, tune: func(s *hostproxy.Server) { s.HandshakeTimeout = moment }})
	for _, protocols := range [][]string{{"acme-tls/1"}, {"http/1.1"}} {
		hello := helloOf(t, &tls.Config{ServerName: "a.test", NextProtos: protocols})
		for _, n := range []int{len(hello), len(hello) - 1, 1, 0} {
			raw, err := net.Dial("tcp", k.addr)
			require.NoError(t, err)
			_, err = raw.Write(hello[:n])
			require.NoError(t, err)
			_ = raw.SetDeadline(time.Now().Add(proxytest.Patience))
			_, err = io.Copy(io.Discard, raw)
			var late net.Error
			assert.False(t, errors.As(err, &late) && late.Timeout(), "%q, %d bytes: the connection stays open", protocols, n)
			raw.Close()
		}
	}
}

// helloOf returns a ClientHello.
func helloOf(t testing.TB, conf *tls.Config) []byte {
	t.Helper()
	client, server := net.Pipe()
	go func() {
		_ = tls.Client(client, conf).Handshake()
		client.Close()
	}()
	defer server.Close()
	head := make([]byte, 5)
	_, err := io.ReadFull(server, head)
	require.NoError(t, err)
	rest := make([]byte, binary.BigEndian.Uint16(head[3:]))
	_, err = io.ReadFull(server, rest)
	require.NoError(t, err)
	return append(head, rest...)
}
