package certs

import (
	"path"
	"strings"

	"github.com/caddyserver/certmagic"
)

// The suffixes of a certificate's files in storage.
const (
	certFile = ".crt"
	keyFile  = ".key"
	metaFile = ".json"
)

// siteKey returns the storage key of one of the files of name's certificate. It
// equals that of certmagic.StorageKeys, at a tenth of the cost for names
// without special characters: hundreds of thousands are read at start.
func (a *authority) siteKey(name, suffix string) string {
	safe := name
	if strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" || strings.Contains(name, "..") {
		safe = certmagic.StorageKeys.Safe(name)
	}
	return path.Join(a.prefix, safe, safe+suffix)
}
