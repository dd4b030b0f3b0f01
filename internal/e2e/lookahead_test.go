//go:build !unix || portable

package e2e_test

import "testing"

// The fast lane reads ahead there, if that is not too much.
func TestAClientThatLeavesALittleOfABodyWhileItWaitsIs499(t *testing.T) {
	whileItWaits(t, func(t *testing.T, s *site, queued bool) {
		if !s.lane.foreign && !s.lane.handler && !s.lane.hooked {
			leavesWaiting(t, s, queued, []unreadBody{unread[0], unread[2]})
		}
	})
}
