package certs

import (
	"path"
	"strings"

	"github.com/caddyserver/certmagic"
)

// The files of a certificate in storage, by their suffix.
const (
	certFile = ".crt"
	keyFile  = ".key"
	metaFile = ".json"
)

// siteKey returns the storage key of one of the files of name's certificate. It
// is what certmagic.StorageKeys returns, at a tenth of the cost for names that
// need no replacement: they are read by the hundred thousand at start.
func (a *authority) siteKey(name, suffix string) string {
	safe := name
	if strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" || strings.Contains(name, "..") {
		safe = certmagic.StorageKeys.Safe(name)
	}
	return path.Join(a.prefix, safe, safe+suffix)
}
