package certs

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/caddyserver/certmagic"
)

// Files returns the storage in the user's data directory, as other programs
// with certmagic use it: $XDG_DATA_HOME/certmagic or ~/.local/share/certmagic.
// A service without a home directory uses systemd's $STATE_DIRECTORY/certmagic.
func Files() (certmagic.Storage, error) {
	dir := os.Getenv("XDG_DATA_HOME")
	if dir == "" {
		if home, err := os.UserHomeDir(); err == nil {
			dir = filepath.Join(home, ".local", "share")
		}
	}
	if dir == "" {
		// systemd separates several directories by colons.
		if list := filepath.SplitList(os.Getenv("STATE_DIRECTORY")); len(list) > 0 {
			dir = list[0]
		}
	}
	if dir == "" {
		return nil, errors.New("no directory for certificates: set HOME, XDG_DATA_HOME or StateDirectory= in the systemd unit, " +
			"or set TLS.Storage")
	}
	return &certmagic.FileStorage{Path: filepath.Join(dir, "certmagic")}, nil
}

// orFiles returns s, or the storage of Files if s is nil.
func orFiles(s certmagic.Storage) (certmagic.Storage, error) {
	if s != nil {
		return s, nil
	}
	return Files()
}
