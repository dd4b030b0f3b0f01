package certs

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"

	"github.com/hostproxy/hostproxy/internal/hostname"
)

// checkTLS checks the settings for TLSConfig.
func (m *Manager) checkTLS() error {
	o := &m.options
	errs := []error{o.Fault, checkConfig(o.Config, m.choices != nil)}
	if o.DefaultHost != "" {
		var err error
		o.DefaultHost, err = hostname.Canonical(o.DefaultHost)
		errs = append(errs, wrap("DefaultHost", err))
	}
	if o.Policy == nil && o.PolicyTTL != 0 {
		errs = append(errs, errors.New("HostPolicyTTL requires HostPolicy: set both or neither"))
	}
	if base := o.Config; base != nil && o.ShareTickets {
		if base.SessionTicketsDisabled {
			errs = append(errs, errors.New("ShareTickets cannot be combined with Config.SessionTicketsDisabled: set only one of them"))
		}
		if base.GetConfigForClient != nil {
			errs = append(errs, errors.New("ShareTickets cannot be combined with Config.GetConfigForClient: set only one of them, "+
				"or call SetSessionTicketKeys on the settings that the function returns"))
		}
	}
	return errors.Join(errs...)
}

// checkConfig checks the base settings. hooked means that the program has a
// hook for TLS settings per host.
func checkConfig(base *tls.Config, hooked bool) error {
	if base == nil {
		return nil
	}
	var errs []error
	if base.GetConfigForClient != nil && hooked {
		errs = append(errs, errors.New("Config.GetConfigForClient cannot be combined with Host: set only one of them"))
	}
	if least := cmp.Or(base.MinVersion, tls.VersionTLS12); base.MaxVersion != 0 && base.MaxVersion < least {
		errs = append(errs, fmt.Errorf("Config.MaxVersion is %s, below the minimum of %s: raise it, or lower MinVersion",
			tls.VersionName(base.MaxVersion), tls.VersionName(least)))
	}
	if p := base.NextProtos; len(p) > 0 && !slices.Contains(p, "h2") && !slices.Contains(p, "http/1.1") {
		errs = append(errs, fmt.Errorf("Config.NextProtos is %q: want h2, http/1.1 or both among them, or nil, which means both", p))
	}
	return errors.Join(errs...)
}
